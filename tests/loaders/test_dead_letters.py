"""Dead letters that are tried once more: what is good by now is stored once."""

from __future__ import annotations

import shutil
import uuid
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog

from feedloop.clock import FixedClock
from feedloop.contracts.log import EventLog, Message
from feedloop.contracts.tables import DEAD_LETTERS_SCHEMA
from feedloop.errors import Fenced
from feedloop.settings import Settings, from_environment
from loaders.dead_letters import DeadLetterReplay, Letters, Replayed
from loaders.iceberg import (
    FencedAppend,
    OffsetsKept,
    committed,
    open_catalog,
    open_table,
)
from loaders.loader import Loader, load_all
from loaders.log import create_topics, open_log
from loaders.maintenance import maintain
from tests.loaders.commands import feedloop
from tests.loaders.dying import EVERY_COMMIT, killed_after
from tests.loaders.maintained import later
from tests.loaders.sending import NOW, event, event_ids, message, rows, send
from tests.support.kafka_broker import KafkaBroker

PROJECT = Path(__file__).parents[2]
ITEM = {"item_id": "i1", "category": "c", "published_at": NOW}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A project of its own, whose seeds the tests edit."""
    shutil.copytree(PROJECT / "seeds", tmp_path / "seeds")
    return from_environment(
        {}, home=str(tmp_path), namespace="t1", project_dir=str(tmp_path)
    )


def learn(settings: Settings, event_type: str) -> None:
    """Add a type of event to the seed."""
    with (settings.seeds_dir / "event_types.csv").open("a") as file:
        file.write(f"{event_type},engagement,1.0,30,false\n")


@pytest.fixture
def replay(settings: Settings, catalog: Catalog) -> DeadLetterReplay:
    return DeadLetterReplay(settings, catalog)


@pytest.fixture
def letters(log: EventLog, settings: Settings, clock: FixedClock) -> EventLog:
    """Two good events; four of a type that is not known yet, one of them twice
    and one whose event_id is stored; two that will never be good."""
    send(
        log,
        settings,
        event(0),
        event(1),
        *(event(n, event_type="dance") for n in (1, 2, 3, 3)),
        event(4, event_type="dance", item_id=""),
    )
    log.append("t1.events", [Message("k", b"bad", NOW)])
    load_all(settings, clock)
    assert len(rows(settings, "dead_letters")) == 6
    return log


ALL = Letters()


def test_nothing_is_good_yet(
    letters: EventLog, replay: DeadLetterReplay, settings: Settings, catalog: Catalog
) -> None:
    before = open_table(catalog, settings, "dead_letters").metadata_location
    assert replay.run(ALL) == [Replayed("events", 6, 0, 0, 6)]
    assert open_table(catalog, settings, "dead_letters").metadata_location == before
    assert event_ids(settings) == ["e0", "e1"]


def test_a_type_that_was_added_to_the_seed(
    letters: EventLog,
    replay: DeadLetterReplay,
    settings: Settings,
    catalog: Catalog,
    clock: FixedClock,
) -> None:
    before = rows(settings, "dead_letters")
    offsets = committed(open_table(catalog, settings, "events").metadata)
    learn(settings, "dance")
    told = replay.run(ALL, dry_run=True)
    assert told == [Replayed("events", 6, 2, 2, 2)]
    assert rows(settings, "dead_letters") == before
    assert replay.run(ALL) == told
    assert event_ids(settings) == ["e0", "e1", "e2", "e3"]
    stored = {row["event_id"]: row for row in rows(settings, "events")}
    assert stored["e1"]["event_type"] == "click"  # the first of an event_id wins
    letter = next(row for row in before if b'"e2"' in row["value"])
    origin = ("log_partition", "log_offset", "ingested_at")
    assert [stored["e2"][name] for name in origin] == [letter[name] for name in origin]
    # what is new is found by load_seq, and offsets did not move
    assert stored["e2"]["load_seq"] == stored["e3"]["load_seq"] == 2
    now = committed(open_table(catalog, settings, "events").metadata)
    assert now["events"].offsets == offsets["events"].offsets
    left = rows(settings, "dead_letters")
    assert sorted(row["value"][:3] for row in left) == [b"bad", b'{"e']
    assert {row["field"] for row in left} == {None, "item_id"}  # the reason of now
    assert replay.run(ALL) == [Replayed("events", 2, 0, 0, 2)]
    assert load_all(settings, clock) == []


def test_only_those_that_are_meant(
    letters: EventLog, replay: DeadLetterReplay, settings: Settings, clock: FixedClock
) -> None:
    late = event(9, event_type="dance")
    letters.append("t1.events", [message(late, NOW + timedelta(hours=1))])
    load_all(settings, clock)
    learn(settings, "dance")
    since = Letters(since=NOW + timedelta(minutes=1))
    assert replay.run(since) == [Replayed("events", 1, 1, 0, 0)]
    assert replay.run(Letters(stream="items")) == []
    assert replay.run(Letters(reason="malformed")) == [Replayed("events", 1, 0, 0, 1)]
    assert event_ids(settings) == ["e0", "e1", "e9"]
    assert replay.run(Letters(reason="DANCE")) == [Replayed("events", 4, 2, 2, 0)]
    assert event_ids(settings) == ["e0", "e1", "e2", "e3", "e9"]
    assert len(rows(settings, "dead_letters")) == 2


@pytest.mark.parametrize("commits", range(3))
def test_killed_between_two_steps(
    commits: int,
    letters: EventLog,
    replay: DeadLetterReplay,
    settings: Settings,
    clock: FixedClock,
) -> None:
    """After none of the commits, after the rows', after the dead letters'."""
    learn(settings, "dance")
    with killed_after(commits, of=2):
        replay.run(ALL)
    replay.run(ALL)
    assert event_ids(settings) == ["e0", "e1", "e2", "e3"]
    assert len(rows(settings, "dead_letters")) == 2
    assert load_all(settings, clock) == []


def test_a_loader_with_the_same_event_id_at_the_same_time(
    letters: EventLog,
    replay: DeadLetterReplay,
    settings: Settings,
    catalog: Catalog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The app sent e2 again, mended; both have looked and found no e2."""
    learn(settings, "dance")
    send(letters, settings, event(2, event_type="dance"), event(5))
    loader = Loader(settings, catalog, letters, "events")
    real = FencedAppend.commit
    once = iter([True])

    def commit(self: FencedAppend, fence: Any) -> None:
        if next(once, False):
            replay.run(ALL)
        real(self, fence)

    monkeypatch.setattr(EVERY_COMMIT, commit)
    with pytest.raises(Fenced):
        loader.load_once()
    assert loader.load_once().duplicates == 1
    assert event_ids(settings) == ["e0", "e1", "e2", "e3", "e5"]


def test_a_compaction_of_the_dead_letters_at_the_same_time(
    letters: EventLog,
    replay: DeadLetterReplay,
    settings: Settings,
    clock: FixedClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for _ in range(5):
        letters.append("t1.events", [Message("k", b"worse", NOW)])
        load_all(settings, clock)
    learn(settings, "dance")
    real = FencedAppend.commit
    once = iter([True])

    def commit(self: FencedAppend, fence: Any) -> None:
        real(self, fence)
        if next(once, False):
            list(maintain(settings, later(0)))

    monkeypatch.setattr(FencedAppend, "commit", commit)
    replay.run(ALL)
    assert event_ids(settings) == ["e0", "e1", "e2", "e3"]
    assert len(rows(settings, "dead_letters")) == 2 + 5


@pytest.mark.parametrize("commits", range(3))
def test_an_item_is_stored_once(
    commits: int,
    log: EventLog,
    replay: DeadLetterReplay,
    settings: Settings,
    clock: FixedClock,
    catalog: Catalog,
) -> None:
    """It has no id of a message; its place in the log tells it."""
    good = msgspec.json.encode(ITEM)
    log.append("t1.items", [Message("i1", good, NOW), Message("i1", good, NOW)])
    log.append("t1.items", [Message("i1", b"bad", NOW)])
    # a loader that was too strict took the second for a bad one
    load_all(settings, clock)
    table = open_table(catalog, settings, "items")
    mistaken = sorted(rows(settings, "items"), key=lambda row: row["log_offset"])[1]
    table.delete(f"log_offset = {mistaken['log_offset']}")
    letters = open_table(catalog, settings, "dead_letters")
    letter = rows(settings, "dead_letters")[0] | {
        "log_offset": mistaken["log_offset"],
        "log_partition": mistaken["log_partition"],
        "value": good,
    }
    append = FencedAppend(letters)
    append.add(pa.Table.from_pylist([letter], schema=DEAD_LETTERS_SCHEMA))
    append.commit(OffsetsKept())
    with killed_after(commits, of=2):
        replay.run(ALL)
    replay.run(ALL)
    assert len(rows(settings, "items")) == 2
    assert [row["value"] for row in rows(settings, "dead_letters")] == [b"bad"]


def test_the_command(letters: EventLog, settings: Settings) -> None:
    learn(settings, "dance")
    told = feedloop(settings, "dead-letters", "replay", "--dry-run")
    assert "of 6 dead letters 2 would be rows now, 2 were there" in told.output
    arguments = ["dead-letters", "replay", "--reason", "dance", "--json"]
    (done,) = msgspec.json.decode(feedloop(settings, *arguments).stdout)
    assert done == {
        "stream": "events",
        "letters": 4,
        "stored": 2,
        "duplicates": 2,
        "still_bad": 0,
    }
    listed = feedloop(settings, "dead-letters", "list", "--reason", "item_id", "--json")
    (letter,) = msgspec.json.decode(listed.stdout)
    assert letter["field"] == "item_id"
    nothing = feedloop(settings, "dead-letters", "replay", "--since", "2030-01-01")
    assert nothing.output == "No such dead letters.\n"
    wrong = feedloop(settings, "dead-letters", "replay", "--since", "yesterday")
    assert wrong.exit_code == 2


def test_on_kafka(kafka: KafkaBroker, settings: Settings, clock: FixedClock) -> None:
    settings = msgspec.structs.replace(
        settings,
        namespace=f"t{uuid.uuid4().hex[:20]}",
        log="kafka",
        kafka_bootstrap=kafka.bootstrap,
    )
    with closing(open_log(settings, clock)) as log:
        create_topics(log, settings)
        send(log, settings, event(0), event(1, event_type="dance"))
        load_all(settings, clock)
        learn(settings, "dance")
        replay = DeadLetterReplay(settings, open_catalog(settings))
        assert replay.run(ALL) == [Replayed("events", 1, 1, 0, 0)]
        send(log, settings, event(1, event_type="dance"), event(2))
        load_all(settings, clock)
    assert event_ids(settings) == ["e0", "e1", "e2"]
    assert rows(settings, "dead_letters") == []
