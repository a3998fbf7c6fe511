"""Whatever happens in whatever order: nothing is lost and nothing is doubled."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.kafka_broker import KafkaBroker
from tests.torture.machine import KafkaPipeline, Pipeline


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

    run_state_machine_as_test(OnFiles, settings=budget(runs=5, steps=25))


def test_on_kafka(kafka: KafkaBroker, tmp_path: Path) -> None:
    class OnKafka(KafkaPipeline):
        folder = tmp_path
        bootstrap = kafka.bootstrap

    run_state_machine_as_test(OnKafka, settings=budget(runs=2, steps=25))
