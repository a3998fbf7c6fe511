"""A window of the log into a table of its own; production does not move."""

from __future__ import annotations

import uuid
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from kafka import KafkaAdminClient, TopicPartition
from pyiceberg.catalog import Catalog

from feedloop.clock import FixedClock
from feedloop.contracts.log import EventLog, Message
from feedloop.errors import ReplayRefused
from feedloop.settings import Settings, from_environment
from loaders.iceberg import open_catalog, open_table
from loaders.loader import Loader, load_all
from loaders.replay import Replay
from tests.loaders.commands import feedloop
from tests.loaders.dying import killed_after
from tests.loaders.sending import NOW, event, event_ids, message, rows
from tests.support.kafka_broker import KafkaBroker

HOUR = timedelta(hours=1)


def at(hour: int) -> datetime:
    return NOW + hour * HOUR


def send_hours(log: EventLog, settings: Settings) -> None:
    """Four events an hour for six hours, spread over the partitions; one of
    them comes twice an hour, and each hour has a bad one."""
    for hour in range(6):
        sent = [message(event(hour * 4 + n), at(hour)) for n in (0, 1, 2, 3, 3)]
        bad = Message("k", b"bad %d" % hour, at(hour))
        log.append(settings.topic("events"), [*sent, bad])


def hours(first: int, last: int) -> list[str]:
    return sorted(f"e{n}" for n in range(first * 4, last * 4))


def stored(catalog: Catalog, replay: Replay) -> list[str]:
    table = catalog.load_table(replay.table)
    found: list[str] = table.scan().to_arrow()["event_id"].to_pylist()
    return sorted(found)


def bad(catalog: Catalog, replay: Replay) -> list[bytes]:
    table = catalog.load_table(replay.dead_letters)
    found: list[bytes] = table.scan().to_arrow()["value"].to_pylist()
    return sorted(found)


@pytest.fixture(params=["file", "kafka"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    bootstrap = ""
    if request.param == "kafka":
        broker: KafkaBroker = request.getfixturevalue("kafka")
        bootstrap = broker.bootstrap
    return from_environment(
        {},
        home=str(tmp_path),
        namespace=f"t{uuid.uuid4().hex[:20]}",
        log=request.param,
        kafka_bootstrap=bootstrap,
        load_max_events=5,
    )


@pytest.fixture
def replay(settings: Settings, catalog: Catalog, log: EventLog) -> Replay:
    send_hours(log, settings)
    return Replay(settings, catalog, log, "again")


def test_a_window_and_nothing_else(
    replay: Replay,
    settings: Settings,
    catalog: Catalog,
    log: EventLog,
    clock: FixedClock,
) -> None:
    load_all(settings, clock)
    before = open_table(catalog, settings, "events").metadata_location
    window = replay.open("events", at(1), at(3))
    reports = list(replay.run(window))
    assert len(reports) > 1
    assert sum(report.rows for report in reports) == 8
    assert sum(report.duplicates for report in reports) == 2
    assert stored(catalog, replay) == hours(1, 3)
    assert bad(catalog, replay) == [b"bad 1", b"bad 2"]
    assert open_table(catalog, settings, "events").metadata_location == before
    assert list(replay.run(replay.open("events", at(1), at(3)))) == []
    # windows that follow one another hold every record once
    other = Replay(settings, catalog, log, "the_rest")
    list(other.run(other.open("events", at(3), at(9))))
    assert stored(catalog, other) == hours(3, 6)
    assert load_all(settings, clock) == []


def test_what_comes_later_is_not_in_the_window(
    replay: Replay, catalog: Catalog, log: EventLog, settings: Settings
) -> None:
    window = replay.open("events", at(4), at(99))
    log.append(settings.topic("events"), [message(event(200), at(5))])
    list(replay.run(window))
    assert stored(catalog, replay) == hours(4, 6)


def test_production_that_was_never_loaded_stays_so(
    replay: Replay, settings: Settings, catalog: Catalog, clock: FixedClock
) -> None:
    list(replay.run(replay.open("events", at(0), at(6))))
    assert event_ids(settings) == []
    load_all(settings, clock)
    assert event_ids(settings) == hours(0, 6)


@pytest.mark.parametrize("commits", [0, 1, 2, 3])
def test_killed_and_done_again(
    commits: int,
    replay: Replay,
    catalog: Catalog,
    settings: Settings,
    log: EventLog,
) -> None:
    with killed_after(commits, of=4):
        list(replay.run(replay.open("events", at(1), at(5))))
    again = Replay(settings, catalog, log, "again")
    list(again.run(again.open("events", at(1), at(5))))
    assert stored(catalog, again) == hours(1, 5)
    assert bad(catalog, again) == [b"bad %d" % hour for hour in range(1, 5)]


@pytest.mark.parametrize("settings", ["file"], indirect=True)
@pytest.mark.parametrize(
    "name", ["events", "dead_letters", "lists", "raw.events", "Events", "", "x;drop"]
)
def test_a_table_of_production_is_refused(
    settings: Settings, catalog: Catalog, log: EventLog, name: str
) -> None:
    with pytest.raises(ReplayRefused):
        Replay(settings, catalog, log, name)


@pytest.mark.parametrize("settings", ["file"], indirect=True)
def test_a_table_that_holds_something_else_is_refused(
    replay: Replay, settings: Settings, catalog: Catalog, log: EventLog
) -> None:
    replay.open("events", at(1), at(3))
    with pytest.raises(ReplayRefused, match="holds events from"):
        replay.open("events", at(1), at(4))
    with pytest.raises(ReplayRefused, match="not after"):
        replay.open("events", at(1), at(1))
    catalog.create_table(
        (settings.replay_schema, "a_persons"), catalog.load_table(replay.table).schema()
    )
    with pytest.raises(ReplayRefused, match="not made by"):
        Replay(settings, catalog, log, "a_persons").open("events", at(1), at(3))


@pytest.mark.parametrize("settings", ["kafka"], indirect=True)
def test_a_topic_that_lost_the_window_meanwhile(
    replay: Replay, settings: Settings, log: EventLog
) -> None:
    window = replay.open("events", at(0), at(3))
    topic = settings.topic("events")
    state = log.state(topic)
    assert state is not None
    with closing(KafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)) as admin:
        admin.delete_records(
            {TopicPartition(topic, p): end for p, end in state.end.items()}
        )
    with pytest.raises(ReplayRefused, match="has dropped records"):
        list(replay.run(window))
    log.append(topic, [message(event(n), at(6)) for n in range(100, 120)])
    later = Replay(settings, open_catalog(settings), log, "later")
    cut = later.open("events", at(0), at(9))
    assert window.cut == []
    assert cut.cut == [p for p, end in state.end.items() if end] != []
    assert sum(one.rows for one in later.run(cut)) == 20


@pytest.mark.parametrize("settings", ["file"], indirect=True)
def test_items_too(
    settings: Settings, catalog: Catalog, log: EventLog, clock: FixedClock
) -> None:
    for hour in range(3):
        item = {"item_id": f"i{hour}", "category": "c", "published_at": NOW}
        value = msgspec.json.encode(item)
        log.append(settings.topic("items"), [Message("i", value, at(hour))])
    replay = Replay(settings, catalog, log, "items_again")
    list(replay.run(replay.open("items", at(1), at(2))))
    table = catalog.load_table(replay.table)
    assert table.scan().to_arrow()["item_id"].to_pylist() == ["i1"]
    assert rows(settings, "items") == []


@pytest.mark.parametrize("settings", ["file"], indirect=True)
def test_the_command(replay: Replay, settings: Settings) -> None:
    window = ["--from", at(1).isoformat(), "--to", "2026-03-01T15:00:00Z"]
    result = feedloop(settings, "replay", *window, "--into", "mine", "--json")
    told = msgspec.json.decode(result.stdout)
    assert told["table"] == f"{settings.namespace}_replay.mine"
    assert (told["rows"], told["dead_letters"], told["duplicates"]) == (8, 2, 2)
    again = feedloop(settings, "replay", *window, "--into", "mine")
    assert "is complete" in again.output
    refused = feedloop(settings, "replay", *window, "--into", "events")
    assert isinstance(refused.exception, ReplayRefused)
    wrong = feedloop(settings, "replay", "--from", "x", "--to", "y", "--into", "z")
    assert wrong.exit_code == 2


def test_the_log_knows_offsets_at_an_instant(
    settings: Settings, log: EventLog, replay: Replay, catalog: Catalog
) -> None:
    topic = settings.topic("events")
    state = log.state(topic)
    assert state is not None
    assert log.offsets_at(topic, at(-5)) == state.beginning
    assert log.offsets_at(topic, at(6)) == state.end
    just_after = log.offsets_at(topic, at(2) + timedelta(microseconds=1))
    assert just_after == log.offsets_at(topic, at(3))
    loader = Loader(settings, catalog, log, "events")
    list(loader.catch_up())
    found = rows(settings, "events")
    for partition, offset in log.offsets_at(topic, at(3)).items():
        before = [
            row["log_offset"] < offset
            for row in found
            if row["log_partition"] == partition and row["ingested_at"] < at(3)
        ]
        after = [
            row["log_offset"] >= offset
            for row in found
            if row["log_partition"] == partition and row["ingested_at"] >= at(3)
        ]
        assert all(before) and all(after)
