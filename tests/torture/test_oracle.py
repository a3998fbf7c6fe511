"""The oracle sees what it is there to see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from feedloop.clock import FixedClock
from feedloop.contracts.log import EventLog, Message
from feedloop.settings import Settings, from_environment
from loaders.iceberg import open_catalog, open_table
from loaders.loader import load_all
from loaders.log import create_topics, open_log
from tests.torture.ledger import Ledger
from tests.torture.machine import NOW, Pipeline
from tests.torture.oracle import judge

GARBAGE = b"no event"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return from_environment({}, home=str(tmp_path), namespace="t1")


@pytest.fixture
def log(settings: Settings) -> Iterator[EventLog]:
    with closing(open_log(settings, FixedClock(NOW))) as log:
        create_topics(log, settings)
        yield log


@pytest.fixture
def ledger(settings: Settings, log: EventLog) -> Ledger:
    """Three events and a dead letter, sent, acknowledged and loaded."""
    ledger = Ledger()
    bodies = [Pipeline.event(number) for number in range(3)]
    ledger.sending(bodies)
    messages = [Message(one["user_id"], msgspec.json.encode(one)) for one in bodies]
    log.append(settings.topic("events"), [*messages, Message("u0", GARBAGE)])
    ledger.told([one["event_id"] for one in bodies])
    ledger.told_letter(GARBAGE)
    load_all(settings, FixedClock(NOW))
    return ledger


@pytest.fixture
def catalog(settings: Settings, ledger: Ledger) -> Catalog:
    return open_catalog(settings)


def changed(rows: pa.Table, column: str, value: Any) -> pa.Table:
    at = rows.schema.get_field_index(column)
    values = pa.array([value] * rows.num_rows, rows.schema.field(at).type)
    return rows.set_column(at, rows.schema.field(at), values)


def the_first(table: Table) -> pa.Table:
    rows = table.scan().to_arrow()
    return rows.filter(pc.equal(rows["event_id"], "e0"))


def faults(
    ledger: Ledger, settings: Settings, catalog: Catalog, log: EventLog
) -> set[str]:
    return set(judge(ledger, settings, catalog, log).faults())


def test_what_is_right_is_right(
    ledger: Ledger, settings: Settings, catalog: Catalog, log: EventLog
) -> None:
    verdict = judge(ledger, settings, catalog, log)
    assert verdict.faults() == {}
    assert (verdict.sent, verdict.stored, verdict.letters) == (3, 3, 1)


def test_an_event_that_is_gone(
    ledger: Ledger, settings: Settings, catalog: Catalog, log: EventLog
) -> None:
    open_table(catalog, settings, "events").delete("event_id = 'e0'")
    assert faults(ledger, settings, catalog, log) == {"lost"}


def test_an_event_that_is_there_twice(
    ledger: Ledger, settings: Settings, catalog: Catalog, log: EventLog
) -> None:
    table = open_table(catalog, settings, "events")
    table.append(the_first(table))
    assert faults(ledger, settings, catalog, log) == {"doubled"}


def test_an_event_that_nobody_sent(
    ledger: Ledger, settings: Settings, catalog: Catalog, log: EventLog
) -> None:
    table = open_table(catalog, settings, "events")
    table.append(changed(the_first(table), "event_id", "e9"))
    assert faults(ledger, settings, catalog, log) == {"invented", "changed"}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("user_id", "u9"),
        ("context", '{"number":7}'),
        ("ingested_at", NOW.replace(year=2025)),
    ],
)
def test_a_row_that_is_not_what_was_sent(
    column: str,
    value: Any,
    ledger: Ledger,
    settings: Settings,
    catalog: Catalog,
    log: EventLog,
) -> None:
    table = open_table(catalog, settings, "events")
    row = the_first(table)
    table.delete("event_id = 'e0'")
    open_table(catalog, settings, "events").append(changed(row, column, value))
    assert faults(ledger, settings, catalog, log) == {"changed"}


def test_the_second_body_in_place_of_the_first(
    ledger: Ledger, settings: Settings, catalog: Catalog, log: EventLog
) -> None:
    table = open_table(catalog, settings, "events")
    row = the_first(table)
    table.delete("event_id = 'e0'")
    body = Pipeline.event(0, item_id="i9")
    ledger.sending([body])
    message = Message(body["user_id"], msgspec.json.encode(body))
    end = log.state(settings.topic("events"))
    assert end is not None
    log.append(settings.topic("events"), [message])
    partition = row["log_partition"][0].as_py()
    row = changed(changed(row, "item_id", "i9"), "log_offset", end.end[partition])
    row = changed(row, "ingested_at", NOW)
    open_table(catalog, settings, "events").append(row)
    assert faults(ledger, settings, catalog, log) == {"changed"}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda rows: rows.slice(0, 0), {"letters_lost"}),
        (lambda rows: pa.concat_tables([rows, rows]), {"letters_doubled"}),
        (
            lambda rows: changed(rows, "value", b"no event!"),
            {"letters_changed", "letters_lost"},
        ),
    ],
    ids=["gone", "twice", "other bytes"],
)
def test_a_dead_letter_that_is_wrong(
    change: Any,
    found: set[str],
    ledger: Ledger,
    settings: Settings,
    catalog: Catalog,
    log: EventLog,
) -> None:
    table = open_table(catalog, settings, "dead_letters")
    table.overwrite(change(table.scan().to_arrow()))
    assert faults(ledger, settings, catalog, log) == found
