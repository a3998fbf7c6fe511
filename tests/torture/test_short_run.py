"""The torture run, short: real processes on one real broker, a fixed seed."""

from __future__ import annotations

from pathlib import Path

from tests.torture.report import page
from tests.torture.world import Plan, World


def test_everything_goes_wrong_for_half_a_minute(tmp_path: Path) -> None:
    plan = Plan(seed=4, seconds=25, loaders=2, fault_every_s=0.4)
    outcome = World(plan, tmp_path, print).run()
    assert outcome.faults() == {}
    # it was worth the while
    assert sum(outcome.injected.values()) > 20
    assert len(outcome.injected) > 10
    verdict = outcome.verdict
    assert verdict.records > verdict.acknowledged > 500
    assert verdict.conflicting > 0
    assert verdict.letters > 0
    assert min(outcome.watched, outcome.expired) > 0
    assert "| **lost** | 0 |" in page(outcome)
