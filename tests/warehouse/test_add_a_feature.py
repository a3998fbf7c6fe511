"""`docs/add-a-feature.md`, followed step by step on a copy of the project."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from feedloop.errors import StepFailed
from tests.conftest import Project
from tests.support import checkerboard
from tests.support.checkerboard import END
from tests.support.project_copy import ROOT, copy_project

MODELS = "models/features/_features__models.yml"
DOCUMENT = (ROOT / "docs/add-a-feature.md").read_text()
BLOCKS = re.findall(r"^```(?:sql|yaml|csv)\n(.*?)^```$", DOCUMENT, re.M | re.S)


def insert(path: Path, before: str, text: str, model: str = "") -> None:
    """``text`` after the first ``before`` (of a model's entry, where named)."""
    found = path.read_text()
    start = found.index(f"  - name: {model}\n") if model else 0
    at = found.index(before, start) + len(before)
    path.write_text(found[:at] + text + found[at:])


def follow(project: Path) -> None:
    """Every step but the row of the registry."""
    measure, column, model, entry, _, place, typed, kept = BLOCKS
    insert(project / "macros/tiles.sql", "macro item_measures() -%}\n", measure)
    models = project / MODELS
    insert(models, "    columns:\n", column, model="tile_item_days")
    (project / "models/features/feat_item_saves.sql").write_text(model)
    insert(models, "models:\n", entry)
    last = "'feat_item_age': ['item_age_days'],\n"
    insert(project / "macros/registry.sql", last, place)
    for name in ("int_item_features", "feat_items"):
        age = "description: Whole days since the item was published.\n"
        insert(models, age, typed, model=name)
    snapshots = project / "snapshots/_snapshots.yml"
    insert(snapshots, "        - item_ctr_30d\n", kept, model="snap_item_features")


def test_the_walk_through_leads_to_a_feature(
    make_checkerboard: Callable[[Path], Project], tmp_path: Path
) -> None:
    production = make_checkerboard(tmp_path / "home")
    as_of = END.isoformat(sep=" ")
    production.build_features(as_of)
    # the last of three lies before the window's first day
    saves = [
        checkerboard.event("s1", 0, 0, END - timedelta(seconds=1), "save"),
        checkerboard.event("s2", 0, 0, END - timedelta(days=7), "save"),
        checkerboard.event("s3", 0, 0, END - timedelta(days=7, seconds=1), "save"),
    ]
    checkerboard.send_events(production.log, production.settings, saves)
    production.load()

    changed = copy_project(tmp_path / "changed")
    follow(changed)
    settings = msgspec.structs.replace(production.settings, project_dir=str(changed))
    project = Project(settings, production.clock, production.log)
    tile = ("run", "--no-partial-parse", "--full-refresh", "--select", "tile_item_days")
    build = (
        *("build", "--selector", "features"),
        *("--exclude-resource-type", "unit_test"),
    )
    project.dbt(*tile, as_of=as_of)
    with pytest.raises(StepFailed, match="assert_features_and_registry_agree"):
        project.dbt(*build, as_of=as_of)

    registry = changed / "seeds/feature_registry.csv"
    registry.write_text(registry.read_text() + BLOCKS[4])
    project.dbt(*build, as_of=as_of)
    for table in ("feat_items", "snap_item_features where dbt_valid_to > now()"):
        found = project.query(f"select item_id, item_saves_7d from {table}")
        assert {row for row in found if row[1]} == {("i000", 2)}, table
