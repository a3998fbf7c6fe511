"""Whatever happens in whatever order: nothing is lost and nothing is doubled."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.torture.machine import Pipeline


def budget(runs: int, steps: int) -> settings:
    """``runs`` of ``steps`` each, the same ones every time."""
    return settings(
        max_examples=runs,
        stateful_step_count=steps,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def test_on_the_file_log(tmp_path: Path) -> None:
    class OnFiles(Pipeline):
        folder = tmp_path

    run_state_machine_as_test(OnFiles, settings=budget(runs=6, steps=25))
