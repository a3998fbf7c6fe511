"""Holds the tables to the client's ledger, and each row to the log.

Nothing here asks the loader. That an event is there is held to what the client
was told; which of several bodies it must have, to the records of the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from pyiceberg.catalog import Catalog

from feedloop.contracts.log import EVENTS, ITEMS, EventLog, Record
from feedloop.settings import Settings
from loaders.iceberg import open_table
from tests.torture.ledger import Body, Ledger

ALL = 2**31
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Place = tuple[int, int]
"""Partition and offset."""


@dataclass
class Verdict:
    """Counts, and below them what must be empty: ids, places or bytes."""

    sent: int = 0
    acknowledged: int = 0
    stored: int = 0
    conflicting: int = 0
    letters: int = 0
    records: int = 0

    lost: list[Any] = field(default_factory=list)
    doubled: list[Any] = field(default_factory=list)
    invented: list[Any] = field(default_factory=list)
    changed: list[Any] = field(default_factory=list)
    letters_lost: list[Any] = field(default_factory=list)
    letters_doubled: list[Any] = field(default_factory=list)
    letters_changed: list[Any] = field(default_factory=list)
    items_lost: list[Any] = field(default_factory=list)
    items_doubled: list[Any] = field(default_factory=list)

    def faults(self) -> dict[str, list[Any]]:
        """What is not as it must be, at most ten of each kind."""
        lists = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {
            name: [len(found), *found[:10]]
            for name, found in lists
            if isinstance(found, list) and found
        }


def judge(
    ledger: Ledger,
    settings: Settings,
    catalog: Catalog,
    log: EventLog,
    *,
    drained: bool = True,
) -> Verdict:
    """Compare. With ``drained`` false the loader may be behind: what is not
    stored yet is not lost."""
    found = Verdict(
        sent=len(ledger.bodies),
        acknowledged=len(ledger.acknowledged),
        conflicting=len(ledger.conflicting()),
    )
    _judge_events(found, ledger, settings, catalog, log, drained)
    _judge_items(found, ledger, settings, catalog, log, drained)
    return found


def rows_of(catalog: Catalog, settings: Settings, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (
        open_table(catalog, settings, name).scan().to_arrow().to_pylist()
    )
    return rows


def records_of(log: EventLog, settings: Settings, stream: str) -> dict[Place, Record]:
    if log.state(settings.topic(stream)) is None:
        return {}
    batch = log.read(settings.topic(stream), {}, ALL)
    return {(one.partition, one.offset): one for one in batch.records}


# --- events and dead letters -------------------------------------------------


def _judge_events(
    found: Verdict,
    ledger: Ledger,
    settings: Settings,
    catalog: Catalog,
    log: EventLog,
    drained: bool,
) -> None:
    rows = rows_of(catalog, settings, EVENTS)
    letters = rows_of(catalog, settings, "dead_letters")
    # read last: whatever is in the tables is in it
    records = records_of(log, settings, EVENTS)
    bodies = {place: _body(one.value) for place, one in records.items()}
    first = _first_places(bodies)

    times = Counter(row["event_id"] for row in rows)
    found.records = len(records)
    found.stored = len(rows)
    found.doubled = sorted(one for one, count in times.items() if count > 1)
    found.invented = sorted(times.keys() - ledger.bodies.keys())
    if drained:
        found.lost = sorted(ledger.acknowledged - times.keys())
    found.changed = [
        row["event_id"]
        for row in rows
        if not _is_as_the_log_says(row, records, bodies, first)
    ]

    expected = {
        place: one.value
        for place, one in records.items()
        if bodies[place] is None or bodies[place]["event_id"] not in ledger.bodies
    }
    at = Counter(_place(row) for row in letters if row["stream"] == EVENTS)
    found.letters = len(letters)
    found.letters_doubled = sorted(one for one, count in at.items() if count > 1)
    found.letters_changed = [
        _place(row)
        for row in letters
        if row["stream"] != EVENTS or expected.get(_place(row), b"") != row["value"]
    ]
    if drained:
        found.letters_lost = sorted(expected.keys() - at.keys())
        values = {row["value"] for row in letters}
        found.letters_lost += sorted(ledger.letters - values)


def _body(value: bytes | None) -> Body | None:
    """The event in a record; None where it holds none."""
    try:
        body = msgspec.json.decode(value or b"null")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return body if isinstance(body, dict) and "event_id" in body else None


def _first_places(bodies: Mapping[Place, Body | None]) -> dict[str, set[Place]]:
    """Where each event_id stands first: one place in each partition that has it.

    Between partitions a log has no order; within one it has, and there the
    first must win.
    """
    first: dict[tuple[str, int], int] = {}
    for (partition, offset), body in bodies.items():
        if body is not None:
            key = (body["event_id"], partition)
            first[key] = min(offset, first.get(key, offset))
    places: dict[str, set[Place]] = {}
    for (event_id, partition), offset in first.items():
        places.setdefault(event_id, set()).add((partition, offset))
    return places


def _is_as_the_log_says(
    row: Mapping[str, Any],
    records: Mapping[Place, Record],
    bodies: Mapping[Place, Body | None],
    first: Mapping[str, set[Place]],
) -> bool:
    place = _place(row)
    body = bodies.get(place)
    if body is None or place not in first.get(row["event_id"], ()):
        return False
    at = timedelta(milliseconds=records[place].timestamp_ms)
    return (
        all(row[name] == body[name] for name in ("event_id", "user_id", "item_id"))
        and row["event_type"] == body["event_type"]
        and row["occurred_at"] == datetime.fromisoformat(body["occurred_at"])
        and row["event_value"] == body.get("event_value")
        and msgspec.json.decode(row["context"]) == body.get("context", {})
        and row["ingested_at"] == EPOCH + at
    )


def _place(row: Mapping[str, Any]) -> Place:
    return row["log_partition"], row["log_offset"]


# --- items -------------------------------------------------------------------


def _judge_items(
    found: Verdict,
    ledger: Ledger,
    settings: Settings,
    catalog: Catalog,
    log: EventLog,
    drained: bool,
) -> None:
    """Every version is a row: the newest one is for those who read."""
    rows = rows_of(catalog, settings, ITEMS)
    found.items_doubled = _repeated(map(_place, rows))
    if drained:
        stored = {(row["item_id"], row["title"]) for row in rows}
        found.items_lost = sorted(ledger.items - stored)
        at = set(map(_place, rows))
        found.items_lost += sorted(records_of(log, settings, ITEMS).keys() - at)


def _repeated(places: Iterable[Place]) -> list[Place]:
    return sorted(place for place, count in Counter(places).items() if count > 1)
