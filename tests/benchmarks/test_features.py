"""The benchmarks of features and history: they run, and what they compare is equal,
which they refuse to go on without."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks import features, point_in_time


def figures_of(command: click.Command, out: Path) -> dict[str, float]:
    result = CliRunner().invoke(
        command, ["--quick", "--out", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    found: dict[str, float] = json.loads(out.read_text())["figures"]
    return found


@pytest.mark.slow
def test_windows_from_tiles_are_those_from_events(tmp_path: Path) -> None:
    found = figures_of(features.main, tmp_path / "features.json")
    assert {f"{model}_from_events_s" for model in features.WINDOWS} < set(found)


@pytest.mark.slow
def test_feast_lacks_only_labels_of_which_nothing_was_known(tmp_path: Path) -> None:
    found = figures_of(point_in_time.main, tmp_path / "point_in_time.json")
    assert found["ratio_to_feast"] > 0
    assert found["ratio_to_feast_duckdb"] > 0
