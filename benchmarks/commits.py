"""What a load takes after many loads: it must not grow with their number."""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from benchmarks.support import event_topic
from benchmarks.support.report import Figure, benchmark
from feedloop.clock import FixedClock, SystemClock
from feedloop.contracts.log import EVENTS
from feedloop.settings import from_environment
from feedloop.telemetry import progress
from loaders.iceberg import ensure_tables, open_catalog
from loaders.loader import Loader
from loaders.log import create_topics, open_log
from loaders.maintenance import maintain_table

AFTER = (10, 100, 1_000, 5_000)
TIMED = 30
EVENTS_EACH = 20
MAINTAIN_EVERY = 60  # commits: with one a minute, each hour
SNAPSHOTS_KEPT = 360


class _Took(NamedTuple):
    """Milliseconds."""

    wall: float
    cpu: float


def loads(folder: Path, count: int) -> list[_Took]:
    """What each of ``count`` small loads took, maintained at its schedule: as
    with one a minute, the snapshots of six hours are there."""
    clock = FixedClock(event_topic.BEGIN)
    settings = from_environment(
        {},
        home=str(folder / "home"),
        namespace="bench",
        load_max_events=EVENTS_EACH,
        log_partitions=1,
        snapshots_kept=SNAPSHOTS_KEPT,
    )
    catalog = open_catalog(settings)
    ensure_tables(catalog, settings)
    took: list[_Took] = []
    with closing(open_log(settings, clock)) as log:
        create_topics(log, settings)
        event_topic.fill(log, settings, count * EVENTS_EACH)
        loader = Loader(settings, catalog, log, EVENTS)
        with progress("loads", total=count) as advance:
            for number in range(1, count + 1):
                wall, cpu = time.perf_counter(), time.process_time()
                loader.load_once()
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                took.append(_Took(wall * 1000, cpu * 1000))
                if number % MAINTAIN_EVERY == 0:
                    later = SystemClock().now() + timedelta(days=2)
                    maintain_table(settings, catalog, EVENTS, later)
                advance(1)
    return took


@benchmark("commits", ["pyiceberg", "pyarrow"])
def main(quick: bool) -> list[Figure]:
    """A load of 20 events after 10, 100, 1,000 and 5,000 loads."""
    after = AFTER[:2] if quick else AFTER
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as folder:
        took = loads(Path(folder), max(after) + TIMED)
    figures = []
    for number in after:
        some = took[number : number + TIMED]
        wall = statistics.median(one.wall for one in some)
        cpu = statistics.median(one.cpu for one in some)
        meaning = f"a load of {EVENTS_EACH} events after {number:,} of them"
        figures += [
            Figure(f"commit_ms_after_{number}", wall, meaning),
            Figure(f"commit_cpu_ms_after_{number}", cpu, "of this, CPU time"),
        ]
    growth = figures[-1].value / figures[1].value
    figures.append(
        Figure("growth", growth, f"CPU, after {after[-1]:,} over after 10", "≤ 1.5")
    )
    return figures


if __name__ == "__main__":
    main()
