"""A day of features by tiles, beside counting thirty days anew, and as history grows.

The project's own models run by dbt on DuckDB; what is told is the time of their
queries, without dbt's start. Days of history are written straight into staging; the
days that are timed come as the loader leaves them, and pass every model.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import duckdb
from dbt.artifacts.schemas.run import RunExecutionResult
from dbt.contracts.graph.nodes import ModelNode

from benchmarks.support.event_world import (
    START,
    World,
    events_of_day,
    make_catalogue,
)
from benchmarks.support.report import Figure, benchmark
from feedloop.cli.dbt_run import run_dbt
from feedloop.errors import StepFailed
from feedloop.settings import Settings, from_environment
from feedloop.telemetry import progress

WINDOW = 30
"""Days that the longest window sums; histories look back as far."""
FEATURES = ("stg_events", "stg_items", "stg_users", "path:models/features", "int_trend")
TILES = (
    "tile_user_days",
    "tile_item_days",
    "tile_user_category_days",
    "tile_user_item_days",
    "tile_item_pair_days",
)
WINDOWS = {
    "feat_user_activity": "tile_user_days",
    "feat_user_category_affinity": "tile_user_category_days",
    "feat_item_popularity": "tile_item_days",
}
"""The models whose features are windows, and the tile that each sums."""


class _Size(NamedTuple):
    world: World
    rounds: int


FULL = _Size(World(50_000, 10_000, 333_330), 3)
QUICK = _Size(World(500, 300, 2_000), 1)
AFTER = (30, 60, 120)
"""Days of history after which days are timed."""

Took = dict[str, float]
"""Seconds by model."""


class _Warehouse:
    """A warehouse without a lake: the raw tables lie in the DuckDB file itself."""

    def __init__(self, home: Path, world: World) -> None:
        self._settings: Settings = from_environment(
            {}, home=str(home), namespace="bench"
        )
        self._world = world
        self.days = 0
        self._settings.duckdb_path.parent.mkdir(parents=True)
        with self.connected() as connection:
            connection.execute(f"create schema {self._settings.raw_schema}")
            connection.execute(f"use {self._settings.raw_schema}")
            make_catalogue(connection, world)
        run_dbt(self._settings, "seed")
        self._run(*FEATURES)

    @contextmanager
    def connected(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with duckdb.connect(str(self._settings.duckdb_path)) as connection:
            connection.execute("set TimeZone = 'UTC'")
            yield connection

    def fill(self, days: int) -> None:
        """Let history be as long, by events in staging; the first ``WINDOW`` days
        come again after that, under other ids."""
        with (
            self.connected() as connection,
            progress("history", total=days - self.days) as advance,
        ):
            connection.execute("use bench")
            for day in range(self.days, days):
                if day < WINDOW:
                    connection.execute(
                        "insert into stg_events by name "
                        "select events.* exclude (ingested_at), ingested_at, "
                        "cast(occurred_at as date) as occurred_on, "
                        "role, weight, half_life_days, is_label "
                        f"from ({events_of_day(self._world, day, load_seq=day)}) "
                        "as events inner join event_types using (event_type)"
                    )
                else:
                    later = day // WINDOW * WINDOW
                    connection.execute(
                        "insert into stg_events select * replace ("
                        f"md5('{later}' || event_id) as event_id, "
                        f"occurred_at + interval {later} day as occurred_at, "
                        f"cast(occurred_on + {later} as date) as occurred_on, "
                        f"ingested_at + interval {later} day as ingested_at, "
                        f"load_seq + {later} as load_seq) "
                        f"from stg_events where occurred_on = date '{START.date()}' "
                        f"+ {day - later}"
                    )
                advance(1)
            connection.execute("checkpoint")
        self.days = days

    def build(self, *arguments: str) -> Took:
        """What each model took for everything that is new."""
        return self._run(*(arguments or FEATURES))

    def add_a_day(self) -> Took:
        with self.connected() as connection:
            connection.execute(f"use {self._settings.raw_schema}")
            connection.execute("truncate events")
            connection.execute(
                "insert into events by name "
                + events_of_day(self._world, self.days, load_seq=self.days)
            )
            connection.execute("checkpoint")
        self.days += 1
        return self._run(*FEATURES)

    def _run(self, *arguments: str) -> Took:
        result = self._dbt("run", *arguments)
        took = {}
        for one in result.results:
            (ran,) = (timing for timing in one.timing if timing.name == "execute")
            if not (ran.completed_at and ran.started_at):
                continue
            # int_trend, in Python, picks a half-life: none of this is told of it
            if isinstance(one.node, ModelNode) and one.node.language == "sql":
                seconds = (ran.completed_at - ran.started_at).total_seconds()
                took[one.node.name] = seconds
        return took

    def _dbt(self, command: str, *arguments: str) -> RunExecutionResult:
        as_of = START + timedelta(days=self.days)
        select = [word for word in arguments if not word.startswith("--")]
        flags = [word for word in arguments if word.startswith("--")]
        result = run_dbt(
            self._settings,
            # one at a time: what runs beside a model would be in its time
            *(command, "--threads", "1", *flags, "--select", *select),
            variables={
                "as_of": as_of.isoformat(sep=" "),
                "history_days": WINDOW,
            },
        ).result
        assert isinstance(result, RunExecutionResult)
        return result

    def windows_from_events(self, rounds: int) -> Took:
        """What the windows take where the query of a tile, over the events of its
        days, stands in the tile's place. Raises ``StepFailed`` where their rows are
        not the models'."""
        compiled = {}
        result = self._dbt("compile", "--full-refresh", *WINDOWS, *WINDOWS.values())
        for one in result.results:
            if isinstance(one.node, ModelNode):  # their tests are compiled, too
                compiled[one.node.name] = str(one.node.compiled_code)
        took: dict[str, list[float]] = {model: [] for model in WINDOWS}
        with self.connected() as connection:
            connection.execute("use bench")
            (here,) = connection.execute("select current_database()").fetchone() or (
                "",
            )
            # the days before the instant's date, as the windows read them
            days = f'"{here}"."bench"."int_days_to_rebuild"'
            connection.execute(
                f"create temp view window_days as select * from {days} "
                f"where day >= date '{START.date()}' + {self.days - WINDOW}"
            )
            for _ in range(rounds):
                for model, tile in WINDOWS.items():
                    anew = compiled[tile].replace(days, "window_days")
                    query = compiled[model].replace(
                        f'"{here}"."bench"."{tile}"', f"({anew})"
                    )
                    start = time.perf_counter()
                    connection.execute(f"create or replace table anew as {query}")
                    took[model].append(time.perf_counter() - start)
                    _assert_equal(connection, model)
            connection.execute("drop table anew")
        return {model: statistics.median(times) for model, times in took.items()}


def _assert_equal(connection: duckdb.DuckDBPyConnection, model: str) -> None:
    (unequal,) = connection.execute(
        f"select count(*) from ((from {model} except all from anew) union all "
        f"(from anew except all from {model}))"
    ).fetchone() or (None,)
    if unequal != 0:
        raise StepFailed(
            f"{unequal} rows of {model} differ between tiles and events: its figures "
            "would mean nothing. `pytest tests/warehouse/test_windows.py` finds why."
        )


def _medians(took: list[Took]) -> Took:
    return {model: statistics.median(one[model] for one in took) for model in took[0]}


def _sum(
    took: Mapping[str, float], models: Mapping[str, str] | tuple[str, ...]
) -> float:
    return sum(took[model] for model in models)


@benchmark("features", ["duckdb", "dbt-core", "dbt-duckdb"])
def main(quick: bool) -> list[Figure]:
    """Days of 333,330 events of 50,000 people, after 30, 60 and 120 days of them."""
    size = QUICK if quick else FULL
    days: dict[int, Took] = {}
    full: list[Took] = []
    from_events: Took = {}
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as folder:
        warehouse = _Warehouse(Path(folder), size.world)
        for after in AFTER:
            warehouse.fill(after)
            if after == WINDOW:
                warehouse.build()
                full = [
                    warehouse.build("--full-refresh", *TILES)
                    for _ in range(size.rounds)
                ]
            else:
                warehouse.build()
            days[after] = _medians([warehouse.add_a_day() for _ in range(size.rounds)])
            if after == AFTER[1]:
                from_events = warehouse.windows_from_events(size.rounds)
    return _figures(size, days, _medians(full), from_events)


def _figures(
    size: _Size, days: Mapping[int, Took], full: Took, from_events: Took
) -> list[Figure]:
    events = size.world.events_a_day
    first, middle, last = AFTER
    whole = {after: sum(took.values()) for after, took in days.items()}
    figures = [
        Figure(
            "ratio_tiles_day_to_full",
            _sum(days[middle], TILES) / _sum(full, TILES),
            f"a day's tiles over those of {WINDOW} days, {events:,} events a day, "
            f"{size.world.people:,} people, after {middle} days",
            "≤ 0.1",
        ),
        Figure(
            "ratio_windows_day_to_full",
            _sum(days[middle], WINDOWS) / _sum(from_events, WINDOWS),
            f"windows from tiles over the same rows from the events of {WINDOW} days",
            "≤ 0.5",
        ),
        Figure(
            "ratio_day_at_120_to_30_days",
            whole[last] / whole[first],
            "every model of features, staging included, by the length of history",
            "≤ 1.2",
        ),
        Figure("full_tiles_s", _sum(full, TILES), f"tiles of {WINDOW} days"),
        Figure("day_tiles_s", _sum(days[middle], TILES), "of one"),
    ]
    for model in WINDOWS:
        figures += [
            Figure(f"{model}_s", days[middle][model], "from tiles"),
            Figure(f"{model}_from_events_s", from_events[model], "from events"),
        ]
    for after, seconds in whole.items():
        figures.append(
            Figure(f"day_s_after_{after}", seconds, f"a day after {after} days")
        )
    return figures


if __name__ == "__main__":
    main()
