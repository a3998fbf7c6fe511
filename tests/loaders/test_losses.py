"""What the loader refuses, and what going on all the same leaves behind."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from kafka import KafkaAdminClient, TopicPartition
from pyiceberg.catalog import Catalog

from feedloop.clock import FixedClock
from feedloop.contracts.log import EventLog, Message, TopicState
from feedloop.errors import (
    Fenced,
    LossNotAccepted,
    OffsetHistoryExpired,
    OffsetsLost,
    TopicRecreated,
)
from feedloop.settings import Settings, from_environment
from loaders import losses as losses_module
from loaders.iceberg import committed, open_catalog
from loaders.iceberg import open_table as open_raw_table
from loaders.loader import Loader, load_all
from loaders.log import create_topics, open_log
from loaders.losses import Losses
from tests.loaders.commands import feedloop
from tests.loaders.dying import Killed, killed_after
from tests.loaders.sending import NOW, event, event_ids, rows, send
from tests.support.kafka_broker import KafkaBroker

TOPIC = "t1.events"
OLD, NEW = [f"e{n}" for n in range(6)], [f"e{n}" for n in range(6, 10)]


@pytest.fixture
def losses(settings: Settings, catalog: Catalog, log: EventLog) -> Losses:
    return Losses(settings, catalog, log, "events")


@pytest.fixture
def loader(settings: Settings, catalog: Catalog, log: EventLog) -> Loader:
    """Six events and a bad one were loaded."""
    send(log, settings, *map(event, range(6)))
    log.append(TOPIC, [Message("k", b"bad", NOW)])
    loader = Loader(settings, catalog, log, "events")
    loader.load_once()
    return loader


def recreate(log: EventLog, settings: Settings) -> None:
    shutil.rmtree(settings.log_dir / TOPIC)
    log.create(TOPIC)
    # what an app sends again, and what is new
    send(log, settings, *map(event, range(4, 10)))
    log.append(TOPIC, [Message("k", b"worse", NOW)])


def position(catalog: Catalog, settings: Settings) -> Any:
    return committed(open_raw_table(catalog, settings, "events").metadata)["events"]


# --- a topic made anew -------------------------------------------------------


def test_a_recreated_topic_is_loaded_from_its_beginning(
    loader: Loader, losses: Losses, log: EventLog, settings: Settings, catalog: Catalog
) -> None:
    before = position(catalog, settings)
    recreate(log, settings)
    with pytest.raises(TopicRecreated, match="--accept-loss events"):
        loader.load_once()
    found = losses.accept(NOW, "me")
    assert {loss.reason for loss in found} == {"topic recreated"}
    list(loader.catch_up())
    assert event_ids(settings) == OLD + NEW
    values = sorted(row["value"] for row in rows(settings, "dead_letters"))
    assert values == [b"bad", b"worse"]
    state = log.state(TOPIC)
    assert state is not None
    audit = sorted(
        rows(settings, "accepted_losses"), key=lambda row: row["log_partition"]
    )
    assert audit == [
        {
            "stream": "events",
            "topic": TOPIC,
            "log_partition": partition,
            "reason": "topic recreated",
            "from_offset": offset,
            "to_offset": None,
            "resumed_at": 0,
            "loaded_topic_id": before.topic_id,
            "log_topic_id": state.topic_id,
            "load_seq": 2,
            "accepted_at": NOW,
            "accepted_by": "me",
        }
        for partition, offset in sorted(before.offsets.items())
    ]
    assert losses.find() == []
    assert losses.accept(NOW, "me") == []


def test_a_topic_that_is_gone(
    loader: Loader, losses: Losses, settings: Settings
) -> None:
    shutil.rmtree(settings.log_dir / TOPIC)
    for go_on in (loader.load_once, losses.find):
        with pytest.raises(OffsetsLost, match="`feedloop collect` makes it anew"):
            go_on()


@pytest.mark.parametrize("commits", range(4))
def test_killed_while_it_accepts(
    commits: int,
    loader: Loader,
    losses: Losses,
    log: EventLog,
    settings: Settings,
) -> None:
    """After none, the audit's, the dead letters' and the last of its commits."""
    recreate(log, settings)
    with killed_after(commits, of=3):
        losses.accept(NOW, "me")
    losses.accept(NOW, "me")
    list(loader.catch_up())
    assert event_ids(settings) == OLD + NEW
    assert len(rows(settings, "accepted_losses")) == 2  # one a partition
    assert len(rows(settings, "dead_letters")) == 2


def test_a_loader_that_was_faster(
    loader: Loader,
    losses: Losses,
    log: EventLog,
    settings: Settings,
    catalog: Catalog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recreate(log, settings)
    real = losses_module._move

    def meanwhile(*arguments: Any) -> None:
        monkeypatch.undo()
        Losses(settings, catalog, log, "events").accept(NOW, "another")
        list(loader.catch_up())
        real(*arguments)

    monkeypatch.setattr(losses_module, "_move", meanwhile)
    with pytest.raises(Fenced):
        losses.accept(NOW, "me")
    assert losses.find() == []
    assert loader.load_once().load_seq is None
    assert event_ids(settings) == OLD + NEW


# --- offsets that the log does not have --------------------------------------


class Beginning:
    """The log of a broker that has dropped what is older."""

    def __init__(self, log: EventLog, beginning: dict[int, int]) -> None:
        self._log = log
        self.beginning = beginning

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def state(self, topic: str) -> TopicState:
        state = self._log.state(topic)
        assert state is not None
        return replace(state, beginning=state.beginning | self.beginning)


def test_more_expires_between_two_tries(
    loader: Loader,
    log: EventLog,
    settings: Settings,
    catalog: Catalog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = position(catalog, settings).offsets
    dropped: Any = Beginning(log, {0: at[0] + 100})
    losses = Losses(settings, catalog, dropped, "events")

    def dying(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(losses_module, "_move", dying)
    for more in (100, 100, 250):
        dropped.beginning = {0: at[0] + more}
        with pytest.raises(Killed):
            losses.accept(NOW, "me")
    monkeypatch.undo()
    losses.accept(NOW, "me")
    audit = rows(settings, "accepted_losses")
    assert sorted((row["from_offset"], row["to_offset"]) for row in audit) == [
        (at[0], at[0] + 100),
        (at[0] + 100, at[0] + 250),
    ]
    assert position(catalog, settings).offsets == at | {0: at[0] + 250}


def test_a_log_that_ends_before_the_table_is_read_again(
    loader: Loader, losses: Losses, log: EventLog, settings: Settings
) -> None:
    """What stands below the table's offset now may be something new."""
    path = settings.log_dir / TOPIC / "0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0])
    send(log, settings, event(7, user_id="u0"))
    with pytest.raises(OffsetsLost, match="ends at") as refused:
        loader.load_once()
    assert "--accept-loss events" in str(refused.value)
    (loss,) = losses.accept(NOW, "me")
    assert (loss.reason, loss.resume) == ("table ahead", 0)
    list(loader.catch_up())
    assert event_ids(settings) == [*OLD, "e7"]
    (row,) = rows(settings, "accepted_losses")
    assert row["from_offset"] < row["to_offset"]


def test_a_log_whose_file_is_another(
    loader: Loader, losses: Losses, log: EventLog, settings: Settings
) -> None:
    """Longer than it was, and no record begins where the table wants to go on."""
    for path in (settings.log_dir / TOPIC).glob("*.jsonl"):
        path.write_bytes(b"")
    send(log, settings, event(7, context={"long": "x" * 3000}), event(8, user_id="u0"))
    users = (event(n, context={"long": "x" * 3000}) for n in range(9, 14))
    send(log, settings, *users)
    with pytest.raises(OffsetsLost, match="not the file it was"):
        loader.load_once()
    refused = feedloop(settings, "status", "--json")
    assert refused.exit_code == 1
    assert "not the file it was" in refused.stdout
    found = losses.accept(NOW, "me")
    assert {(loss.reason, loss.resume) for loss in found} == {("log replaced", 0)}
    list(loader.catch_up())
    assert event_ids(settings) == sorted([*OLD, *(f"e{n}" for n in range(7, 14))])
    assert len(rows(settings, "accepted_losses")) == 2


def test_offsets_whose_history_was_expired(
    loader: Loader, losses: Losses, log: EventLog, settings: Settings, catalog: Catalog
) -> None:
    """A stranger appended, and another expired what held the offsets."""
    table = open_raw_table(catalog, settings, "events")
    table.append(pa.Table.from_batches([], schema=table.schema().as_arrow()))
    table.refresh()
    head = table.current_snapshot()
    old = [one.snapshot_id for one in table.snapshots() if one != head]
    table.maintenance.expire_snapshots().by_ids(old).commit()
    send(log, settings, *map(event, range(6, 10)))
    with pytest.raises(OffsetHistoryExpired, match="--accept-loss"):
        loader.load_once()
    found = losses.accept(NOW, "me")
    assert {loss.reason for loss in found} == {"offset history expired"}
    (report,) = loader.catch_up()
    assert (report.rows, report.load_seq) == (4, 3)
    assert event_ids(settings) == OLD + NEW


# --- the command -------------------------------------------------------------


def test_the_command_says_what_is_skipped_and_wants_a_yes(
    loader: Loader, log: EventLog, settings: Settings
) -> None:
    recreate(log, settings)
    refused = feedloop(settings, "load")
    assert isinstance(refused.exception, TopicRecreated)
    unanswered = feedloop(settings, "load", "--accept-loss", "events")
    assert isinstance(unanswered.exception, LossNotAccepted)
    assert "was deleted and made anew" in unanswered.output
    assert rows(settings, "accepted_losses") == []
    accepted = feedloop(settings, "load", "--accept-loss", "events", "--yes")
    assert accepted.exit_code == 0
    assert "events: 4 rows" in accepted.output
    assert event_ids(settings) == OLD + NEW
    (by,) = {row["accepted_by"] for row in rows(settings, "accepted_losses")}
    assert "@" in by
    again = feedloop(settings, "load", "--accept-loss", "events", "--yes")
    assert again.exit_code == 0
    assert "nothing is lost" in again.output


def test_the_command_accepts_no_loss_again_and_again(settings: Settings) -> None:
    arguments = ["load", "--every", "1s", "--accept-loss", "events", "--yes"]
    assert feedloop(settings, *arguments).exit_code == 2


# --- Kafka -------------------------------------------------------------------


@pytest.fixture
def on_kafka(kafka: KafkaBroker, tmp_path: Path) -> Settings:
    return from_environment(
        {},
        home=str(tmp_path),
        namespace=f"t{uuid.uuid4().hex[:20]}",
        log="kafka",
        kafka_bootstrap=kafka.bootstrap,
    )


def wait_until(true: Callable[[], bool]) -> None:
    deadline = datetime.now().timestamp() + 60
    while not true():
        assert datetime.now().timestamp() < deadline


def admin_of(settings: Settings) -> Any:
    return KafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)


def test_on_kafka_a_topic_made_anew_and_records_that_expired(
    on_kafka: Settings, clock: FixedClock
) -> None:
    settings = on_kafka
    topic = settings.topic("events")
    with (
        closing(open_log(settings, clock)) as log,
        closing(admin_of(settings)) as admin,
    ):
        create_topics(log, settings)
        send(log, settings, *map(event, range(6)))
        load_all(settings, clock)
        send(log, settings, *map(event, range(6, 8)))
        state = log.state(topic)
        assert state is not None
        # as retention does
        admin.delete_records(
            {TopicPartition(topic, p): end for p, end in state.end.items()}
        )
        with pytest.raises(OffsetsLost, match="no longer has the offsets"):
            load_all(settings, clock)
        losses = Losses(settings, open_catalog(settings), log, "events")
        skipped = losses.accept(NOW, "me")
        assert (
            sum((one.to_offset or 0) - (one.from_offset or 0) for one in skipped) == 2
        )
        send(log, settings, *map(event, range(8, 10)))
        load_all(settings, clock)
        kept = [*OLD, "e8", "e9"]
        assert event_ids(settings) == kept

        admin.delete_topics([topic])
        wait_until(lambda: log.state(topic) is None)
        log.create(topic)
        # past the offsets of old, so that offsets alone would not show it
        send(log, settings, *map(event, range(8, 40)))
        with pytest.raises(TopicRecreated):
            load_all(settings, clock)
        losses.accept(NOW, "me")
        load_all(settings, clock)
        assert event_ids(settings) == sorted({*kept, *(f"e{n}" for n in range(8, 40))})
        reasons = {row["reason"] for row in rows(settings, "accepted_losses")}
        assert reasons == {"offsets expired", "topic recreated"}


def test_on_kafka_new_partitions_are_loaded_from_their_beginning(
    on_kafka: Settings, clock: FixedClock
) -> None:
    settings = on_kafka
    topic = settings.topic("events")
    with (
        closing(open_log(settings, clock)) as log,
        closing(admin_of(settings)) as admin,
    ):
        create_topics(log, settings)
        send(log, settings, *map(event, range(6)))
        load_all(settings, clock)
        admin.create_partitions({topic: 5})

        def has_all() -> bool:
            state = log.state(topic)
            return state is not None and len(state.end) == 5

        wait_until(has_all)
        with closing(open_log(settings, clock)) as fresh:
            users = (event(n, user_id=f"u{n}") for n in range(6, 60))
            send(fresh, settings, *users)
        load_all(settings, clock)
        assert event_ids(settings) == sorted(f"e{n}" for n in range(60))
        found = {row["log_partition"] for row in rows(settings, "events")}
        assert found == set(range(5))
