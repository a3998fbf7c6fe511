"""What a day adds to the history of features, beside a copy of all of them a day."""

from __future__ import annotations

import statistics
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import duckdb

from benchmarks.support.report import Figure, benchmark
from feedloop.cli.dbt_run import run_dbt
from feedloop.clock import SystemClock
from feedloop.settings import Settings, from_environment
from feedloop.telemetry import progress
from loaders.importing import import_dataset

DATASET = "movielens-100k"
LAST = datetime(1998, 4, 22, tzinfo=UTC)
"""Midnight before the data's last whole day."""
DAYS, QUICK_DAYS = 14, 2
HISTORIES = {
    "user": ("snap_user_features", "feat_users"),
    "item": ("snap_item_features", "feat_items"),
}


class _Day(NamedTuple):
    """Of one kind of entity at one as_of."""

    entities: int
    versions: int
    version_bytes: int
    copy_bytes: int


def snapshot_days(settings: Settings, folder: Path, days: int) -> dict[str, list[_Day]]:
    """Import everything, then take a snapshot each midnight."""
    import_dataset(settings, SystemClock(), DATASET)
    run_dbt(settings, "seed")
    found: dict[str, list[_Day]] = {kind: [] for kind in HISTORIES}
    with progress("snapshots", total=days + 1) as advance:
        for number in range(days + 1):
            as_of = LAST - timedelta(days=days - number)
            run_dbt(
                settings,
                "build",
                *("--select", *(f"+{name}" for name, _ in HISTORIES.values())),
                *("--resource-type", "model", "--resource-type", "snapshot"),
                variables={"as_of": f"{as_of:%Y-%m-%d %H:%M:%S}"},
            )
            if number:  # the first one has every value
                for kind, (history, features) in HISTORIES.items():
                    found[kind].append(_day(settings, folder, history, features, as_of))
            advance(1)
    return found


def _day(
    settings: Settings, folder: Path, history: str, features: str, as_of: datetime
) -> _Day:
    sizes = []
    rows = []
    parts = (
        f"select * from {history} where dbt_valid_from = timestamp '{as_of:%Y-%m-%d}'",
        f"select * from {features}",
    )
    with duckdb.connect(str(settings.duckdb_path), read_only=True) as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute(f"use {settings.namespace}")
        for part in parts:
            path = folder / "part.parquet"
            connection.execute(f"copy ({part}) to '{path}' (compression zstd)")
            sizes.append(path.stat().st_size)
            ((count,),) = connection.execute(
                f"select count(*) from '{path}'"
            ).fetchall()
            rows.append(count)
    return _Day(rows[1], rows[0], sizes[0], sizes[1])


@benchmark("history", ["dbt-core", "dbt-duckdb", "duckdb"])
def main(quick: bool) -> list[Figure]:
    """Snapshots of two weeks of MovieLens-100k, a day at a time."""
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as name:
        folder = Path(name)
        settings = from_environment(home=str(folder / "home"), namespace="bench")
        days = snapshot_days(settings, folder, QUICK_DAYS if quick else DAYS)
    figures = []
    for kind, found in days.items():
        share = statistics.median(day.versions / day.entities for day in found)
        size = statistics.median(day.version_bytes for day in found)
        copy = statistics.median(day.copy_bytes for day in found)
        figures += [
            Figure(
                f"{kind}_rows_changed_share", share, f"of {found[-1].entities:,} rows"
            ),
            Figure(f"{kind}_bytes_per_day", size, "new versions, as Parquet"),
            Figure(f"{kind}_ratio_to_copies", size / copy, "beside all rows each day"),
        ]
    return figures


if __name__ == "__main__":
    main()
