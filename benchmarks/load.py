"""From Kafka into Iceberg, beside the limit and Spark Structured Streaming."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
from dbt.adapters.sparkpy.java import (  # type: ignore[import-not-found]
    java_home,
)

from benchmarks.support import bare_load, event_topic
from benchmarks.support.environments import environment
from benchmarks.support.measure import (
    Usage,
    in_turn,
    measured,
    median_of,
    run_command,
)
from benchmarks.support.report import ROOT, Figure, benchmark
from feedloop.clock import FixedClock
from feedloop.contracts.log import EVENTS
from feedloop.errors import StepFailed
from feedloop.settings import Settings, from_environment, to_environment
from loaders.loader import load_all
from loaders.log import create_topics, open_log
from tests.support.jvm import fetch_jars
from tests.support.kafka_broker import KafkaBroker

PARTITIONS = 8
READERS = 2
# An hour's outage of a shop with 20 million events a day.
LAG_EVENTS_PER_S = 230
SPARK_JARS = (
    "org.apache.spark:spark-sql-kafka-0-10_2.13:4.1.1",
    "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0",
)
# pyspark has the others itself
NOT_IN_SPARK = (
    *("spark-sql-kafka", "spark-token-provider-kafka", "kafka-clients"),
    *("commons-pool2", "iceberg-spark-runtime"),
)


class _Size(NamedTuple):
    events: int
    rounds: int


FULL = _Size(2_000_000, 3)
QUICK = _Size(100_000, 1)


class _Topic(NamedTuple):
    """A topic that is there, to be loaded into any home."""

    settings: Settings
    clock: FixedClock
    events: int

    def at(self, home: Path) -> Settings:
        return msgspec.structs.replace(self.settings, home=str(home))


@contextmanager
def filled_topic(folder: Path, events: int) -> Iterator[_Topic]:
    clock = FixedClock(event_topic.BEGIN)
    with KafkaBroker(folder / "kafka") as broker:
        settings = from_environment(
            {},
            home=str(folder / "home"),
            namespace="bench",
            log="kafka",
            kafka_bootstrap=broker.bootstrap,
            log_partitions=PARTITIONS,
        )
        with closing(open_log(settings, clock)) as log:
            create_topics(log, settings)
            event_topic.fill(log, settings, events)
        yield _Topic(settings, clock, events)


# --- the sides ---------------------------------------------------------------


def scheduled(topic: _Topic, home: Path, readers: int = 1) -> Usage:
    """``feedloop load``, the process's start included."""
    settings = msgspec.structs.replace(topic.at(home), load_readers=readers)
    environ = os.environ | to_environment(settings)
    command = [sys.executable, "-m", "feedloop", "load", "--json"]
    usage, out = run_command(command, environ)
    _check(topic, sum(batch["rows"] for batch in msgspec.json.decode(out)))
    return usage


def warm(topic: _Topic, home: Path) -> Usage:
    """The same in a process that runs already."""
    with measured() as usage:
        reports = load_all(topic.at(home), topic.clock)
    _check(topic, sum(report.rows for report in reports))
    return usage


def limit(topic: _Topic, home: Path) -> Usage:
    name = topic.settings.topic(EVENTS)
    bootstrap, at_once = topic.settings.kafka_bootstrap, 200_000
    with measured() as usage:
        loaded = bare_load.load(bootstrap, name, PARTITIONS, home, at_once)
    _check(topic, loaded)
    return usage


class _SparkRun(msgspec.Struct):
    events: int
    cpu_s: float
    wall_s: float
    peak_rss_mb: float


def spark(topic: _Topic, home: Path) -> dict[str, Usage]:
    home.mkdir(parents=True)
    jars = [jar for jar in fetch_jars(*SPARK_JARS) if jar.name.startswith(NOT_IN_SPARK)]
    environ = dict(os.environ)
    java = java_home(environ, home / "java")
    if java is not None:
        environ["JAVA_HOME"] = java
    command: list[str | Path] = [
        environment("spark"),
        ROOT / "benchmarks" / "support" / "spark_load.py",
        *(topic.settings.kafka_bootstrap, topic.settings.topic(EVENTS)),
        *(home, ",".join(map(str, jars))),
    ]
    _, out = run_command(command, environ)
    runs = msgspec.json.decode(out.splitlines()[-1], type=dict[str, _SparkRun])
    for run in runs.values():
        _check(topic, run.events)
    return {
        f"spark {name}": Usage(run.wall_s, run.cpu_s, run.peak_rss_mb)
        for name, run in runs.items()
    }


def _check(topic: _Topic, loaded: int) -> None:
    if loaded != topic.events:
        raise StepFailed(f"{loaded} events were loaded of {topic.events}.")


# --- figures -----------------------------------------------------------------


def speed(topic: _Topic, folder: Path, rounds: int) -> list[Figure]:
    names = iter(range(1000))

    def home() -> Path:
        return folder / f"round-{next(names)}"

    environment("spark")  # made before anything is measured
    sides: dict[str, Callable[[], dict[str, Usage]]] = {
        "scheduled": lambda: {"scheduled": scheduled(topic, home())},
        "warm": lambda: {"warm": warm(topic, home())},
        "limit": lambda: {"limit": limit(topic, home())},
        "readers": lambda: {"readers": scheduled(topic, home(), READERS)},
        "spark": lambda: spark(topic, home()),
    }
    rounds_of = in_turn(sides, rounds).values()
    usages = {
        name: median_of([round_[name] for round_ in found])
        for found in rounds_of
        for name in found[0]
    }
    cpu = {name: usage.cpu_s for name, usage in usages.items()}
    run, apart = usages["scheduled"], usages["readers"]
    behind_s = topic.events / LAG_EVENTS_PER_S
    return [
        Figure(
            "ratio_to_spark_per_cpu_s",
            cpu["spark scheduled"] / cpu["scheduled"],
            "events a CPU-second, a whole scheduled run",
            "≥ 3",
        ),
        Figure(
            "ratio_to_spark_warm_per_cpu_s",
            cpu["spark warm"] / cpu["warm"],
            "the same, both in a running process",
            "≥ 1.5",
        ),
        Figure(
            "ratio_to_limit",
            cpu["limit"] / cpu["warm"],
            "beside bare drain, decode, Arrow and append",
            "≥ 0.7",
        ),
        Figure("peak_rss_mb", run.peak_rss_mb, "of `feedloop load`", "≤ 1500"),
        Figure(
            "readers_wall_ratio",
            run.wall_s / apart.wall_s,
            f"how much sooner it ends with FEEDLOOP_LOAD_READERS={READERS}",
        ),
        Figure("readers_cpu_ratio", apart.cpu_s / run.cpu_s, "what that costs"),
        Figure("readers_peak_rss_mb", apart.peak_rss_mb, "of its processes together"),
        Figure("events_per_cpu_s", topic.events / run.cpu_s, "whole scheduled run"),
        Figure("events_per_s", topic.events / run.wall_s, "whole scheduled run"),
        Figure("warm_events_per_cpu_s", topic.events / cpu["warm"], "running process"),
        Figure("limit_events_per_cpu_s", topic.events / cpu["limit"], "the limit"),
        Figure(
            "spark_events_per_cpu_s",
            topic.events / cpu["spark scheduled"],
            "Spark, whole scheduled run",
        ),
        Figure(
            "spark_warm_events_per_cpu_s",
            topic.events / cpu["spark warm"],
            "Spark, running session",
        ),
        Figure(
            "spark_events_per_s",
            topic.events / usages["spark scheduled"].wall_s,
            "Spark, whole scheduled run",
        ),
        Figure(
            "spark_peak_rss_mb", usages["spark scheduled"].peak_rss_mb, "Spark's JVM"
        ),
        Figure(
            "lag_caught_up_s_per_s",
            behind_s / run.wall_s,
            f"seconds of {LAG_EVENTS_PER_S} events/s caught up in a second",
        ),
    ]


@benchmark("load", ["kafka-python", "pyiceberg", "pyarrow", "msgspec", "duckdb"])
def main(quick: bool) -> list[Figure]:
    """Kafka into Iceberg: 2M events of 500 bytes, 8 partitions, lz4."""
    size = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as name:
        folder = Path(name)
        with filled_topic(folder, size.events) as topic:
            return speed(topic, folder, size.rounds)


if __name__ == "__main__":
    main()
