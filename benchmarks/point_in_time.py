"""What was known at each label's instant, beside Feast on the same files.

Feast joins with its default store (dask) and with its DuckDB store; ours is the
macro by which the models join, rendered by dbt. Each join is a process of its own
and takes its turn; only the join is timed. Whatever one of them gives that the
others don't must be explained, or there is no figure.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import duckdb

from benchmarks.support import known_join
from benchmarks.support.environments import environment
from benchmarks.support.measure import Usage, in_turn, median_of, run_command
from benchmarks.support.report import Figure, benchmark
from feedloop.errors import StepFailed
from feedloop.settings import from_environment

FEAST = Path(known_join.__file__).with_name("feast_join.py")
STORES = {"feast": "dask", "feast_duckdb": "duckdb"}
DAYS = 30
FEATURES = {
    "user": [f"user_feature_{number}" for number in range(10)],
    "item": [f"item_feature_{number}" for number in range(5)],
}


class _Size(NamedTuple):
    labels: int
    users: int
    items: int
    rounds: int


FULL = _Size(600_000, 50_000, 10_000, 3)
QUICK = _Size(3_000, 500, 100, 1)


def _write(folder: Path, size: _Size) -> None:
    """Values of each entity once a day, at a second of its own, and labels at any
    time of the days: some come before the first value."""
    start = "timestamptz '2026-01-01 00:00:00+00'"
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        for entity, count in (("user", size.users), ("item", size.items)):
            values = ", ".join(
                f"(hash(i, day, {at}) % 1000003) / 1000003.0 as {name}"
                for at, name in enumerate(FEATURES[entity])
            )
            connection.execute(
                f"copy (select '{entity}' || i as {entity}_id, {start} + "
                "to_seconds(86400 * day + cast(hash(i, 7) % 3600 as bigint)) "
                f"as event_timestamp, {values} "
                f"from range({count}) as entities(i), range({DAYS}) as days(day) "
                f"order by day, i) to '{folder / f'{entity}s.parquet'}'"
            )
        connection.execute(
            "copy (select i as label_id, "
            f"'user' || hash(i, 1) % {size.users} as user_id, "
            f"'item' || hash(i, 2) % {size.items} as item_id, {start} + "
            f"to_seconds(cast(hash(i, 3) % {DAYS * 86400} as bigint)) "
            f"as event_timestamp from range({size.labels}) as labels(i)) "
            f"to '{folder / 'labels.parquet'}'"
        )
    (folder / "features.json").write_text(json.dumps(FEATURES))


def _join(*command: str | Path) -> Usage:
    """What the join took, and the peak memory of its process."""
    usage, text = run_command(command)
    took = json.loads(text.splitlines()[-1])
    return Usage(took["wall_s"], took["cpu_s"], usage.peak_rss_mb)


class _Difference(NamedTuple):
    """Labels before the first value of their user or item; labels that Feast gives
    no row for, of them those with all values known: ``twins`` of another label of
    their user at the same instant, and others; labels with other values than
    ours."""

    early: int
    dropped: int
    twins: int
    unexplained: int
    unequal: int


def _difference(folder: Path, side: str) -> _Difference:
    names = [name for names in FEATURES.values() for name in names]
    unequal = " or ".join(
        f"ours.{name} is distinct from theirs.{name}" for name in names
    )
    known = " and ".join(f"ours.{name} is not null" for name in names)
    row = duckdb.execute(
        f"select count(*) filter (where not ({known})), "
        "count(*) filter (where theirs.label_id is null), "
        f"count(*) filter (where theirs.label_id is null and {known} and twin), "
        f"count(*) filter (where theirs.label_id is null and {known} and not twin), "
        f"count(*) filter (where theirs.label_id is not null and ({unequal})) "
        "from (select *, "
        "count(*) over (partition by user_id, event_timestamp) > 1 as twin "
        f"from '{folder / 'ours.parquet'}') as ours "
        f"full join '{folder / f'{side}.parquet'}' as theirs "
        "on ours.label_id = theirs.label_id"
    ).fetchone()
    assert row is not None
    return _Difference(*row)


@benchmark("point_in_time", ["duckdb", "dbt-duckdb"])
def main(quick: bool) -> list[Figure]:
    """600,000 labels, each with what was known of its user and item."""
    size = QUICK if quick else FULL
    python = environment("feast")
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as name:
        folder = Path(name)
        _write(folder, size)
        settings = from_environment({}, home=str(folder / "home"), namespace="bench")
        query = folder / "join.sql"
        query.write_text(known_join.rendered(settings, folder, FEATURES))
        ours = (sys.executable, "-m", known_join.__name__, query)
        sides = {"ours": partial(_join, *ours, folder / "ours.parquet")} | {
            side: partial(
                _join, python, FEAST, store, folder, folder / f"{side}.parquet"
            )
            for side, store in STORES.items()
        }
        took = {
            side: median_of(usages)
            for side, usages in in_turn(sides, size.rounds).items()
        }
        differences = {side: _difference(folder, side) for side in STORES}
    for side, found in differences.items():
        if found.unexplained or found.unequal:
            raise StepFailed(
                f"{side} lacks {found.unexplained} labels whose values were known and "
                f"has other values for {found.unequal}: the joins don't mean the same; "
                "look at benchmarks/point_in_time.py before comparing them."
            )
    return _figures(size, took, differences)


def _figures(
    size: _Size, took: dict[str, Usage], differences: dict[str, _Difference]
) -> list[Figure]:
    ours, feast, feast_duckdb = (
        took[side] for side in ("ours", "feast", "feast_duckdb")
    )
    rows = (
        f"{size.labels:,} labels × ({size.users:,} users × {DAYS} days × 10 features) "
        f"and ({size.items:,} items × {DAYS} × 5)"
    )
    figures = [
        Figure(
            "ratio_to_feast",
            feast.cpu_s / ours.cpu_s,
            f"CPU-seconds of Feast's default store over ours; {rows}",
            "≥ 20",
        ),
        Figure(
            "ratio_to_feast_duckdb",
            feast_duckdb.cpu_s / ours.cpu_s,
            "of its DuckDB store over ours",
            "≥ 4",
        ),
        Figure(
            "rss_ratio_to_feast",
            ours.peak_rss_mb / feast.peak_rss_mb,
            "our process's peak memory over that of Feast's default store",
            "≤ 0.5",
        ),
        Figure("wall_ratio_to_feast", feast.wall_s / ours.wall_s, "by the clock"),
        Figure(
            "wall_ratio_to_feast_duckdb",
            feast_duckdb.wall_s / ours.wall_s,
            "by the clock",
        ),
    ]
    for side, usage in took.items():
        figures += [
            Figure(f"{side}_cpu_s", usage.cpu_s, "of the join alone"),
            Figure(f"{side}_peak_rss_mb", usage.peak_rss_mb, "of its whole process"),
        ]
    for side, found in differences.items():
        figures.append(
            Figure(
                f"{side}_labels_dropped",
                found.dropped,
                f"of {found.early:,} labels before the first value of their user or "
                "item: it gives them no row, ours nulls; and "
                f"{found.twins} of two of one user at one instant",
            )
        )
    return figures


if __name__ == "__main__":
    main()
