"""``feedloop tune`` on what was loaded."""

from pathlib import Path

import yaml

from feedloop.cli.tune import as_yaml, tuned
from recommender.tuning import CHOICES
from tests.conftest import Project
from tests.support.checkerboard import END


def test_the_variables_are_those_of_the_project(built_project: Project) -> None:
    found = tuned(built_project.settings, END, trials=2, minutes=5)
    assert len(found.trials) == 2
    assert found.trials[0].ndcg > 0
    variables = yaml.safe_load(as_yaml(found))
    assert set(variables) == set(CHOICES)
    project = Path(built_project.settings.project_dir) / "dbt_project.yml"
    declared = yaml.safe_load(project.read_text())["vars"]
    assert {name: declared[name] for name in CHOICES} == found.trials[0].variables
