"""What a load makes of the log: rows, dead letters, refusals; each event once."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pyiceberg.catalog import Catalog

from feedloop.clock import FixedClock
from feedloop.contracts.lists import RequestSigner, rec_id
from feedloop.contracts.log import EventLog, Message, Record, Records, TopicState
from feedloop.errors import OffsetsLost, TopicRecreated
from feedloop.settings import Settings, from_environment
from loaders.decode import decoder
from loaders.iceberg import open_table as open_raw_table
from loaders.loader import Loader, load_all
from loaders.log import create_topics, open_log
from tests.loaders.sending import (
    NOW,
    TOPIC,
    counts,
    event,
    event_ids,
    message,
    rows,
    send,
)
from tests.support.kafka_broker import KafkaBroker

# --- what a row is -----------------------------------------------------------


def test_a_row_says_all_that_the_event_said(
    loader: Loader, log: EventLog, settings: Settings
) -> None:
    context = {
        "session_id": "s1",
        "device": "ios",
        "surface": "homepage",
        "page_position": 3,
        "model_version": "m1",
        "dwell_time_ms": 1500,
        "experiment": {"arm": "B"},
    }
    occurred = datetime(2026, 2, 27, 23, 30, tzinfo=UTC)
    sent = {
        "event_id": "e1",
        "user_id": "u1",
        "item_id": "i1",
        "event_type": "rating",
        "occurred_at": "2026-02-28T01:30:00+02:00",
        "event_value": 4.5,
        "context": context,
    }
    log.append(TOPIC, [Message("u1", msgspec.json.encode(sent), NOW)])
    report = loader.load_once()
    (row,) = rows(settings, "events")
    assert msgspec.json.decode(row.pop("context")) == context
    assert row == {
        "event_id": "e1",
        "user_id": "u1",
        "item_id": "i1",
        "event_type": "rating",
        "occurred_at": occurred,
        "event_value": 4.5,
        "rec_id": None,
        "session_id": "s1",
        "device": "ios",
        "surface": "homepage",
        "page_position": 3,
        "request_id": None,
        "model_version": "m1",
        "dwell_time_ms": 1500,
        "ingested_at": NOW,
        "log_partition": row["log_partition"],
        "log_offset": 0,
        "load_seq": 1,
    }
    assert report.offsets_from == {0: 0, 1: 0}
    assert report.offsets_to[row["log_partition"]] > 0


def test_items_and_users(log: EventLog, settings: Settings, clock: FixedClock) -> None:
    item = {
        "item_id": "i1",
        "category": "news",
        "published_at": "2026-02-01T00:00:00Z",
        "title": "A title",
        "tags": ["a", "b"],
        "metadata": {"k": [1]},
    }
    user = {"user_id": "u1", "created_at": "2026-01-01T00:00:00Z", "country": "BR"}
    log.append("t1.items", [Message("i1", msgspec.json.encode(item), NOW)])
    log.append("t1.users", [Message("u1", msgspec.json.encode(user), NOW)])
    reports = load_all(settings, clock)
    assert {(report.stream, report.rows) for report in reports} == {
        ("items", 1),
        ("users", 1),
    }
    (stored,) = rows(settings, "items")
    assert stored["published_at"] == datetime(2026, 2, 1, tzinfo=UTC)
    assert (stored["tags"], stored["is_active"]) == (["a", "b"], True)
    assert (stored["metadata"], stored["description"]) == ('{"k":[1]}', "")
    (stored,) = rows(settings, "users")
    assert (stored["country"], stored["segment"]) == ("BR", None)
    assert stored["created_at"] == datetime(2026, 1, 1, tzinfo=UTC)


def test_every_version_of_an_item_is_kept(
    log: EventLog, settings: Settings, clock: FixedClock
) -> None:
    for title in ("first", "second"):
        item = {"item_id": "i1", "category": "c", "published_at": NOW, "title": title}
        log.append("t1.items", [Message("i1", msgspec.json.encode(item), NOW)])
    load_all(settings, clock)
    found = sorted(rows(settings, "items"), key=lambda row: row["log_offset"])
    assert [row["title"] for row in found] == ["first", "second"]


def test_a_request_id_gives_the_list_only_to_whom_it_was_signed(
    loader: Loader, log: EventLog, settings: Settings
) -> None:
    shown = rec_id("u1", "homepage", "m@20260101T000000000000Z")
    genuine = RequestSigner(settings.signing_key).sign(shown, "u1")
    forged = RequestSigner("another-signing-key").sign(shown, "u1")
    cases = {
        "genuine": ("u1", genuine, shown),
        "another's": ("u2", genuine, None),
        "forged": ("u1", forged, None),
        "cut": ("u1", genuine[:-1], None),
        "rubbish": ("u1", "rubbish", None),
    }
    send(
        log,
        settings,
        *(
            event(0, event_id=name, user_id=user, context={"request_id": request})
            for name, (user, request, _) in cases.items()
        ),
    )
    loader.load_once()
    found = {row["event_id"]: row for row in rows(settings, "events")}
    for name, (_, request, expected) in cases.items():
        assert found[name]["rec_id"] == expected, name
        assert found[name]["request_id"] == request


def test_a_late_event_lands_in_its_own_day(
    loader: Loader, log: EventLog, settings: Settings, catalog: Catalog
) -> None:
    send(log, settings, event(1), event(2, occurred_at=NOW - timedelta(days=9)))
    loader.load_once()
    files = open_raw_table(catalog, settings, "events").scan().plan_files()
    days = {file.file.partition[0] for file in files}
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert days == {(NOW - timedelta(days=n) - epoch).days for n in (2, 9)}


# --- once --------------------------------------------------------------------


def test_a_second_load_finds_nothing(
    loader: Loader, log: EventLog, settings: Settings, catalog: Catalog
) -> None:
    send(log, settings, *map(event, range(10)))
    first = loader.load_once()
    assert counts(first) == (10, 0, 0)
    location = open_raw_table(catalog, settings, "events").metadata_location
    second = loader.load_once()
    assert counts(second) == (0, 0, 0)
    assert second.load_seq is None
    assert second.offsets_from == second.offsets_to == first.offsets_to
    assert open_raw_table(catalog, settings, "events").metadata_location == location


def test_batches_are_numbered_and_limited(
    catalog: Catalog, log: EventLog, settings: Settings
) -> None:
    small = msgspec.structs.replace(settings, load_max_events=4)
    send(log, settings, *map(event, range(10)))
    reports = list(Loader(small, catalog, log, "events").catch_up())
    assert [report.load_seq for report in reports] == [1, 2, 3]
    assert [report.rows for report in reports] == [4, 4, 2]
    assert event_ids(settings) == sorted(f"e{n}" for n in range(10))
    by_seq = [row["load_seq"] for row in rows(settings, "events")]
    assert sorted(by_seq) == [1] * 4 + [2] * 4 + [3] * 2


def test_sent_twice_is_stored_once(
    loader: Loader, log: EventLog, settings: Settings
) -> None:
    send(log, settings, event(1), event(2), event(1))
    assert counts(loader.load_once()) == (2, 0, 1)
    send(log, settings, event(2), event(3), event(1))
    assert counts(loader.load_once()) == (1, 0, 2)
    send(log, settings, event(1), event(2), event(3))
    only_known = loader.load_once()
    assert counts(only_known) == (0, 0, 3)
    assert counts(loader.load_once()) == (0, 0, 0)  # its offsets were committed
    assert event_ids(settings) == ["e1", "e2", "e3"]


def test_the_first_of_an_event_id_wins(
    loader: Loader, log: EventLog, settings: Settings
) -> None:
    # Two users, two partitions: the log's own time says which was first.
    later = message(event(1, user_id="u4", item_id="later"), NOW)
    first = message(event(1, user_id="u1", item_id="first"), NOW - timedelta(hours=1))
    log.append(TOPIC, [later, first])
    assert counts(loader.load_once()) == (1, 0, 1)
    send(log, settings, event(1, item_id="last"))
    assert counts(loader.load_once()) == (0, 0, 1)
    assert [row["item_id"] for row in rows(settings, "events")] == ["first"]


@pytest.mark.parametrize("batch", [1, 10], ids=["two batches", "one batch"])
def test_the_first_wins_also_when_the_clock_went_back_in_between(
    batch: int, catalog: Catalog, log: EventLog, settings: Settings
) -> None:
    """Where a batch ends must not choose between two bodies."""
    earlier = NOW - timedelta(hours=5)
    bodies = [event(1, event_value=value) for value in (1.0, 2.0)]
    messages = [message(bodies[0], NOW), message(bodies[1], earlier)]
    log.append(settings.topic("events"), messages)
    limited = msgspec.structs.replace(settings, load_max_events=batch)
    list(Loader(limited, catalog, log, "events").catch_up())
    (row,) = rows(settings, "events")
    assert row["event_value"] == 1.0


@pytest.mark.parametrize(("days_apart", "stored"), [(29, 1), (32, 2)])
def test_the_horizon_of_dedupe(
    loader: Loader, log: EventLog, settings: Settings, days_apart: int, stored: int
) -> None:
    send(log, settings, event(1, occurred_at=NOW - timedelta(days=days_apart)))
    loader.load_once()
    send(log, settings, event(1, occurred_at=NOW))
    loader.load_once()
    assert settings.dedupe_horizon_days == 30
    assert len(rows(settings, "events")) == stored


# --- what can't be stored ----------------------------------------------------


BROKEN: dict[bytes, tuple[str | None, str]] = {
    b"not json": (None, "malformed"),
    b"{}": ("event_id", "missing required field"),
    b'{"event_id": 7}': ("event_id", "Expected `str`"),
    b"[1]": (None, "Expected `object`"),
    b"\xff\xfe": (None, "malformed"),
    b'{"event_id": "\xff"}': (None, "utf-8"),
    msgspec.json.encode(event(1, context={"deep": "HERE"})).replace(
        b'"HERE"', b"[" * 5000 + b"]" * 5000
    ): (None, "nested too deeply"),
    msgspec.json.encode(event(1, event_type="dance")): ("event_type", "unknown type"),
    msgspec.json.encode(event(1, event_value="high")): ("event_value", "Expected"),
    msgspec.json.encode(event(1, colour="red")): ("colour", "unknown field"),
    msgspec.json.encode(event(1, user_id="ü" * 65)): ("user_id", "128 bytes"),
    msgspec.json.encode(event(1, occurred_at=NOW + timedelta(hours=2))): (
        "occurred_at",
        "ahead of the log's clock",
    ),
    msgspec.json.encode(event(1, context={"page_position": "top"})): (
        "context.page_position",
        "Expected `int",
    ),
    msgspec.json.encode(event(1)).replace(
        b'"click"', b'"click","context":{"a":"\xff"}'
    ): (
        "context",
        "UTF-8",
    ),
}


@pytest.mark.parametrize("value", BROKEN, ids=lambda value: value[:24])
def test_what_breaks_the_contract_is_a_dead_letter(
    loader: Loader, log: EventLog, settings: Settings, value: bytes
) -> None:
    log.append(TOPIC, [message(event(100)), Message("u0", value, NOW)])
    assert counts(loader.load_once()) == (1, 1, 0)
    (letter,) = rows(settings, "dead_letters")
    field, reason = BROKEN[value]
    assert letter["field"] == field
    assert reason in letter["reason"]
    assert letter["value"] == value
    assert (letter["stream"], letter["key"]) == ("events", "u0")
    assert (letter["ingested_at"], letter["load_seq"]) == (NOW, 1)
    assert letter["log_offset"] > 0
    assert event_ids(settings) == ["e100"]


def test_a_torn_line_is_a_dead_letter(
    loader: Loader, log: EventLog, settings: Settings
) -> None:
    path = settings.log_dir / TOPIC / "0.jsonl"
    path.write_bytes(b'{"ts": 1, "key": "u1", "val\n')
    assert counts(loader.load_once()) == (0, 1, 0)
    (letter,) = rows(settings, "dead_letters")
    assert letter["value"] == b'{"ts": 1, "key": "u1", "val'
    assert (letter["log_partition"], letter["log_offset"]) == (0, 0)


@pytest.mark.parametrize("stream", ["events", "items", "users"])
def test_a_tombstone_is_a_dead_letter(
    log: EventLog, catalog: Catalog, settings: Settings, stream: str
) -> None:
    log.append(settings.topic(stream), [Message("k", None, NOW)])
    report = Loader(settings, catalog, log, stream).load_once()
    assert counts(report) == (0, 1, 0)
    (letter,) = rows(settings, "dead_letters")
    assert (letter["stream"], letter["key"], letter["value"]) == (stream, "k", None)
    assert "tombstone" in letter["reason"]


@pytest.mark.parametrize("ms", [-1, 10**18])
def test_a_record_with_an_impossible_time(settings: Settings, ms: int) -> None:
    value = msgspec.json.encode(event(1))
    records = Records.of([Record(0, 5, ms, "k", value)])
    decoded = decoder("events", settings).decode(records, 1)
    assert decoded.rows.num_rows == 0
    (letter,) = decoded.dead.to_pylist()
    assert (letter["field"], letter["value"]) == ("ingested_at", value)
    assert letter["ingested_at"] == datetime(1970, 1, 1, tzinfo=UTC)


def test_a_batch_of_nothing_good_moves_on(
    loader: Loader, log: EventLog, settings: Settings
) -> None:
    log.append(TOPIC, [Message("k", b"bad", NOW), Message("k", b"worse", NOW)])
    assert counts(loader.load_once()) == (0, 2, 0)
    assert counts(loader.load_once()) == (0, 0, 0)
    assert sorted(row["value"] for row in rows(settings, "dead_letters")) == [
        b"bad",
        b"worse",
    ]


# --- refusals ----------------------------------------------------------------


def test_no_topic_yet(catalog: Catalog, settings: Settings, clock: FixedClock) -> None:
    assert load_all(settings, clock) == []


def test_a_topic_made_anew_is_refused(
    loader: Loader, log: EventLog, settings: Settings
) -> None:
    send(log, settings, *map(event, range(3)))
    loader.load_once()
    shutil.rmtree(settings.log_dir / TOPIC)
    with pytest.raises(OffsetsLost, match=r"no topic t1\.events any more"):
        loader.load_once()
    log.create(TOPIC)
    send(log, settings, *map(event, range(100)))  # past the offsets of old
    with pytest.raises(TopicRecreated, match="--accept-loss events"):
        loader.load_once()
    assert event_ids(settings) == ["e0", "e1", "e2"]


def test_a_log_that_ends_before_the_table_is_refused(
    loader: Loader, log: EventLog, settings: Settings
) -> None:
    send(log, settings, *map(event, range(10)))
    loader.load_once()
    path = settings.log_dir / TOPIC / "0.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]))
    with pytest.raises(OffsetsLost, match="ends at"):
        loader.load_once()


class Beginning:
    """The log of a broker that has dropped what is older."""

    def __init__(self, log: EventLog, beginning: Mapping[int, int]) -> None:
        self._log = log
        self._beginning = beginning

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def state(self, topic: str) -> TopicState:
        state = self._log.state(topic)
        assert state is not None
        return replace(state, beginning=self._beginning)


@pytest.mark.parametrize(
    ("beginning", "message_part"),
    [({0: 10**9, 1: 0}, "no longer has the offsets"), ({0: 0}, "lost its partition 1")],
)
def test_offsets_that_the_log_dropped_are_refused(
    catalog: Catalog,
    log: EventLog,
    settings: Settings,
    beginning: dict[int, int],
    message_part: str,
) -> None:
    send(log, settings, *map(event, range(10)))
    Loader(settings, catalog, log, "events").load_once()
    dropped: Any = Beginning(log, beginning)
    with pytest.raises(OffsetsLost, match=message_part):
        Loader(settings, catalog, dropped, "events").load_once()


# --- Kafka -------------------------------------------------------------------


def test_the_same_loader_on_kafka(
    kafka: KafkaBroker, tmp_path: Path, clock: FixedClock
) -> None:
    settings = from_environment(
        {},
        home=str(tmp_path),
        namespace=f"t{uuid.uuid4().hex[:20]}",
        log="kafka",
        kafka_bootstrap=kafka.bootstrap,
        load_max_events=8,
    )
    with closing(open_log(settings, clock)) as log:
        create_topics(log, settings)
        send(log, settings, *map(event, range(20)), event(3))
        log.append(settings.topic("events"), [Message("k", b"bad", NOW)])
        reports = load_all(settings, clock)
        assert [report.load_seq for report in reports] == [1, 2, 3]
        assert sum(report.rows for report in reports) == 20
        assert sum(report.duplicates for report in reports) == 1
        assert load_all(settings, clock) == []
    assert event_ids(settings) == sorted(f"e{n}" for n in range(20))
    assert [row["value"] for row in rows(settings, "dead_letters")] == [b"bad"]
