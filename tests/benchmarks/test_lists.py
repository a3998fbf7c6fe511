"""The benchmarks of what makes a list: they run, and tell what doesn't depend on
the machine."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks import rank, retrieve, train


def figures_of(command: click.Command, out: Path) -> dict[str, float]:
    result = CliRunner().invoke(
        command, ["--quick", "--out", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    found: dict[str, float] = json.loads(out.read_text())["figures"]
    return found


def test_the_index_finds_what_exact_search_finds(tmp_path: Path) -> None:
    found = figures_of(retrieve.main, tmp_path / "retrieve.json")
    assert found["recall_at_300"] > 0.95
    assert found["ratio_to_exact"] == found["ratio_to_exact_20k"]
    assert found["index_bytes_per_item_20k"] > 0


def test_training_has_every_figure(tmp_path: Path) -> None:
    found = figures_of(train.main, tmp_path / "train.json")
    worse = max(found["time_ratio"], found["memory_ratio"])
    assert found["ratio_to_bare_implicit"] == worse
    assert found["peak_rss_mb"] > 0


@pytest.mark.slow
def test_memory_doesnt_grow_with_the_number_of_users(tmp_path: Path) -> None:
    found = figures_of(rank.main, tmp_path / "rank.json")
    assert found["memory_growth"] < 1.25
    assert found["users_per_s"] > 0
