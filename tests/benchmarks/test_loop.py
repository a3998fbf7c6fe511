"""The benchmark of the whole loop: a loop that doesn't explore, and a short run."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from benchmarks import loop
from feedloop.contracts.seeds import read_surfaces
from simulator.app import SURFACE
from tests.support.project_copy import ROOT, copy_project


def test_only_the_slots_are_taken_away(tmp_path: Path) -> None:
    before = read_surfaces(ROOT / "seeds")
    assert before[SURFACE].exploration_slots > 0
    project = copy_project(tmp_path / "project")
    loop.without_exploration(project)
    quiet = msgspec.structs.replace(before[SURFACE], exploration_slots=0)
    assert read_surfaces(project / "seeds") == {**before, SURFACE: quiet}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_short_run_has_every_figure(tmp_path: Path) -> None:
    out = tmp_path / "loop.json"
    result = CliRunner().invoke(
        loop.main, ["--quick", "--out", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())["figures"]
    assert 0 < figures["ctr_ratio_to_oracle"] < 1
    assert figures["ctr.random"] < figures["ctr.pipeline"] < figures["ctr.oracle"]
    assert figures["exploration_gain"] > -1
    shown, reordered = (
        figures[f"expected_to_oracle.{name}"] for name in ("shown", "reordered")
    )
    assert 0 < shown <= reordered
