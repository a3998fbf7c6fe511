"""Windows summed from tiles equal a plain count over every event, bit for bit.

The count reads nothing but what was sent: no tile, no day, no SQL.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from tests.conftest import Project, open_project
from tests.support import checkerboard
from tests.support.checkerboard import START

PEOPLE, ITEMS, DAYS = 12, 10, 40
UNKNOWN = ITEMS  # an item that no catalogue names
WEIGHTS = {"view": 1, "click": 3, "save": 4, "purchase": 8}
LABELS = ("click", "save", "purchase")
PRIOR = 20
BUILT = (
    "path:seeds path:models/staging int_days_to_rebuild int_as_of int_items "
    "dim_categories tile_user_days tile_item_days tile_user_category_days "
    "feat_user_activity feat_user_category_affinity feat_item_popularity"
)
TILES = ("tile_user_days", "tile_item_days", "tile_user_category_days")

Event = dict[str, Any]
Rows = dict[str, tuple[Any, ...]]


def some_event(chance: random.Random, name: str, at: datetime) -> Event:
    kind = chance.choices(("impression", "hover", *WEIGHTS), (9, 2, 3, 3, 1, 1))[0]
    place = chance.choice((None, 1, 2, 3))
    context = {
        "page_position": place,
        "session_id": chance.choice((None, f"s{chance.randrange(40)}")),
        "dwell_time_ms": chance.randrange(9000) if kind == "view" else None,
    }
    row = checkerboard.event(
        name, chance.randrange(PEOPLE), chance.randrange(ITEMS + 1), at, kind
    )
    return row | {
        "context": {key: value for key, value in context.items() if value is not None}
    }


def moment(chance: random.Random, first: int, last: int) -> datetime:
    """Within the days; every fifth on the second at which one begins."""
    day = START + timedelta(days=chance.randrange(first, last))
    if chance.random() < 0.2:
        return day
    return day + timedelta(microseconds=chance.randrange(86_400_000_000))


def category(item_id: str) -> str:
    number = int(item_id[1:])
    return "uncatalogued" if number == UNKNOWN else ("even", "odd")[number % 2]


def day_of(event: Event) -> date:
    return datetime.fromisoformat(event["occurred_at"]).date()


class Counted:
    """The events of a window of ``days`` whole days and the instant's own."""

    def __init__(self, events: list[Event], as_of: datetime, days: int) -> None:
        first = as_of.date() - timedelta(days=days)
        self.events = [
            event
            for event in events
            if day_of(event) >= first
            and datetime.fromisoformat(event["occurred_at"]) <= as_of
        ]

    def engaged(self) -> list[Event]:
        return [one for one in self.events if one["event_type"] in WEIGHTS]

    def weight(self) -> int:
        return sum(WEIGHTS[one["event_type"]] for one in self.engaged())

    def impressions(self) -> int:
        return sum(one["event_type"] == "impression" for one in self.events)

    def responses(self) -> int:
        return sum(
            one["event_type"] in LABELS and "page_position" in one["context"]
            for one in self.events
        )

    def rate(self, mean: float) -> float:
        return (float(self.responses()) + PRIOR * mean) / (
            float(self.impressions()) + PRIOR
        )


def by(key: str, events: list[Event]) -> Iterator[tuple[str, list[Event]]]:
    for name in sorted({event[key] for event in events}):
        yield name, [event for event in events if event[key] == name]


def mean_rate(events: list[Event], as_of: datetime) -> float:
    everything = Counted(events, as_of, 30)
    return everything.responses() / everything.impressions()


def activity(events: list[Event], as_of: datetime) -> Rows:
    mean = mean_rate(events, as_of)
    found: Rows = {}
    for person, own in by("user_id", Counted(events, as_of, 30).events):
        month, week = Counted(own, as_of, 30), Counted(own, as_of, 7)
        dwells = [
            one["context"]["dwell_time_ms"]
            for one in week.events
            if "dwell_time_ms" in one["context"]
        ]
        sessions = {
            (day_of(one), one["context"]["session_id"])
            for one in week.events
            if "session_id" in one["context"]
        }
        newest = max((one["occurred_at"] for one in month.engaged()), default=None)
        found[person] = (
            float(len(week.engaged())),
            float(len({day_of(one) for one in month.events})),
            float(month.impressions()),
            month.rate(mean),
            float(sum(dwells)) / len(dwells) if dwells else 0.0,
            float(len(sessions)),
            newest
            and float((as_of - datetime.fromisoformat(newest)) // timedelta(hours=1)),
        )
    return found


def affinity(events: list[Event], as_of: datetime) -> Rows:
    found: Rows = {}
    for person, own in by("user_id", Counted(events, as_of, 30).events):
        total = Counted(own, as_of, 30).weight()
        shares = [
            Counted(
                [one for one in own if category(one["item_id"]) == name], as_of, 30
            ).weight()
            for name in ("even", "odd", "uncatalogued")
        ]
        if total:
            found[person] = ([share / total for share in shares],)
    return found


def popularity(events: list[Event], as_of: datetime) -> Rows:
    mean = mean_rate(events, as_of)
    found: Rows = {}
    for item, own in by("item_id", Counted(events, as_of, 30).events):
        day, week, month = (Counted(own, as_of, days) for days in (1, 7, 30))
        weights = [float(window.weight()) for window in (day, week, month)]
        found[item] = (*weights, float(month.impressions()), month.rate(mean))
    return found


EXPECTED: dict[str, tuple[str, Callable[[list[Event], datetime], Rows]]] = {
    "feat_user_activity": (
        "user_id, user_events_7d, user_active_days_30d, user_impressions_30d, "
        "user_ctr_30d, user_dwell_7d_ms, user_sessions_7d, user_hours_since_engaged",
        activity,
    ),
    "feat_user_category_affinity": ("user_id, user_category_affinity", affinity),
    "feat_item_popularity": (
        "item_id, item_popularity_1d, item_popularity_7d, item_popularity_30d, "
        "item_impressions_30d, item_ctr_30d",
        popularity,
    ),
}


def run(project: Project, as_of: datetime, select: str = BUILT) -> None:
    kinds = ("test", "unit_test")
    flags = [word for kind in kinds for word in ("--exclude-resource-type", kind)]
    at = as_of.isoformat(sep=" ")
    project.dbt("build", *flags, "--select", select, as_of=at)


def assert_windows_are_plain_counts(project: Project, events: list[Event]) -> None:
    instants = project.query("select purpose, as_of from int_as_of")
    assert {purpose for purpose, _ in instants} == {"serving", "training"}
    for purpose, as_of in instants:
        for table, (columns, counted) in EXPECTED.items():
            rows = project.query(
                f"select {columns} from {table} where purpose = '{purpose}'"
            )
            found = {name: tuple(values) for name, *values in rows}
            assert found == counted(events, as_of), (table, purpose)


def test_windows_are_plain_counts_however_late_events_come(tmp_path: Path) -> None:
    chance = random.Random(7)
    project = open_project(tmp_path)
    checkerboard.send_catalogue(
        project.log,
        project.settings,
        [checkerboard.item(number) for number in range(ITEMS)],
        [checkerboard.user(number) for number in range(PEOPLE)],
    )
    events: list[Event] = []
    # most in order, then some of days that were built long ago
    for piece, (count, first, last) in enumerate([(600, 0, 36), (60, 0, DAYS)]):
        new = [
            some_event(chance, f"{piece}-{number}", moment(chance, first, last))
            for number in range(count)
        ]
        checkerboard.send_events(project.log, project.settings, new)
        project.load()
        events += new
        run(project, moment(chance, last - 4, last))
        assert_windows_are_plain_counts(project, events)
    a_day_that_lost_its_events_loses_its_rows(project, START.date())


def a_day_that_lost_its_events_loses_its_rows(project: Project, gone: date) -> None:
    """And nothing else changes."""

    def rows(table: str) -> list[tuple[Any, ...]]:
        return project.query(f"select * from {table} order by all")

    as_of = START + timedelta(days=DAYS)
    before = {table: rows(table) for table in TILES}
    assert all(any(gone in row for row in before[table]) for table in TILES)
    with duckdb.connect(str(project.settings.duckdb_path)) as connection:
        connection.execute(f"delete from t1.stg_events where occurred_on = '{gone}'")
        connection.execute(
            "update t1.int_days_to_rebuild set changed_seq = 1 + (select "
            f"max(changed_seq) from t1.int_days_to_rebuild) where day = '{gone}'"
        )
    run(project, as_of, " ".join(TILES))
    for table in TILES:
        assert rows(table) == [row for row in before[table] if gone not in row]
