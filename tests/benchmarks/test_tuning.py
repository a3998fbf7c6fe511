"""The benchmark of what tuning would add."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import tuning
from feedloop.settings import from_environment

DATA = from_environment().data_dir / tuning.NAMES[0]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} isn't there")
def test_the_best_of_some_trials_is_no_worse_than_the_first(tmp_path: Path) -> None:
    out = tmp_path / "tuning.json"
    result = CliRunner().invoke(
        tuning.main, ["--quick", "--out", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())["figures"]
    untuned, best, lost = (
        found[f"movielens-100k.{name}"]
        for name in ("ndcg_untuned", "ndcg_best", "lost_untuned")
    )
    assert 0 < untuned <= best < 1
    assert lost == pytest.approx(1 - untuned / best, abs=1e-5)
