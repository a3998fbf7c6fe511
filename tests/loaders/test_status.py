"""What ``feedloop status`` says, of a log and tables whose state is known."""

from __future__ import annotations

import shutil
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from feedloop.clock import FileClock, FixedClock
from feedloop.contracts.log import EventLog, Message
from feedloop.settings import Settings, from_environment
from loaders.iceberg import open_catalog
from loaders.loader import load_all
from loaders.losses import Losses
from tests.loaders.commands import feedloop
from tests.loaders.sending import NOW, event, message, send
from tests.support.kafka_broker import KafkaBroker, free_ports


@pytest.fixture(params=["file", "kafka"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    bootstrap = ""
    if request.param == "kafka":
        broker: KafkaBroker = request.getfixturevalue("kafka")
        bootstrap = broker.bootstrap
    clock_file = tmp_path / "clock"
    FileClock(clock_file).set(NOW)
    return from_environment(
        {},
        home=str(tmp_path),
        namespace=f"t{uuid.uuid4().hex[:20]}",
        log=request.param,
        kafka_bootstrap=bootstrap,
        clock_file=str(clock_file),
    )


on_files = pytest.mark.parametrize("settings", ["file"], indirect=True)


def status(settings: Settings, exit_code: int = 0) -> dict[str, Any]:
    result = feedloop(settings, "status", "--json")
    assert result.exit_code == exit_code
    found: dict[str, Any] = msgspec.json.decode(result.stdout)
    assert found["ok"] == (exit_code == 0)
    return found


def stream(found: dict[str, Any], name: str) -> dict[str, Any]:
    one: dict[str, Any] = next(s for s in found["streams"] if s["stream"] == name)
    return one


def table(found: dict[str, Any], name: str) -> dict[str, Any]:
    one: dict[str, Any] = next(t for t in found["tables"] if t["table"] == name)
    return one


@on_files
def test_nothing_is_there_yet(settings: Settings) -> None:
    found = status(settings)
    assert (found["tables"], found["dead"], found["accepted_losses"]) == ([], [], [])
    assert [one["partitions"] for one in found["streams"]] == [[], [], []]
    (advice,) = found["advice"]
    assert "holds no table yet; `feedloop load`" in advice


def test_lag_by_partition(settings: Settings, log: EventLog, clock: FixedClock) -> None:
    before = status(settings)
    assert [lag["records"] for lag in stream(before, "events")["partitions"]] == [0, 0]
    send(log, settings, *map(event, range(5)))
    load_all(settings, clock)
    # one user: one partition
    old = [
        message(event(n, user_id="u0"), NOW - timedelta(minutes=n)) for n in (40, 30)
    ]
    log.append(settings.topic("events"), old)
    events = stream(status(settings), "events")
    assert events["load_seq"] == 1
    assert events["last_load"] is not None
    lag = sorted(events["partitions"], key=lambda one: one["records"])
    assert [(one["records"], one["seconds"]) for one in lag] == [(0, 0), (2, 2400)]
    assert lag[1]["loaded_to"] < lag[1]["end"]
    (advice,) = status(settings)["advice"]
    assert "2 records of events wait, one for 0:40:00" in advice
    load_all(settings, clock)
    found = status(settings)
    assert found["advice"] == []
    assert {one["records"] for one in stream(found, "events")["partitions"]} == {0}


@on_files
def test_tables_and_what_is_due(
    settings: Settings, log: EventLog, clock: FixedClock
) -> None:
    for number in range(6):
        send(log, settings, event(number))
        load_all(settings, clock)
    found = status(settings)
    events = table(found, "events")
    assert (events["rows"], events["files"], events["files_due"]) == (6, 6, 6)
    assert (events["snapshots"], events["snapshots_due"]) == (6, 0)
    assert events["bytes"] > 0 and events["last_commit"] is not None
    assert found["advice"] == [
        "Compaction is due for 6 files: run `feedloop maintain`."
    ]
    assert feedloop(settings, "maintain").exit_code == 0
    found = status(settings)
    assert (table(found, "events")["files"], found["advice"]) == (1, [])
    # the compaction is a commit, and no load
    last = stream(found, "events")["last_load"]
    assert last < table(found, "events")["last_commit"]


@on_files
def test_dead_letters_of_a_day(
    settings: Settings, log: EventLog, clock: FixedClock
) -> None:
    topic = settings.topic("events")
    yesterday = NOW - timedelta(hours=25)
    log.append(topic, [Message("k", b"old", yesterday)])
    log.append(topic, [Message("k", b"bad", NOW - timedelta(hours=23))] * 3)
    send(log, settings, event(1, event_type="dance"))
    load_all(settings, clock)
    found = status(settings)
    assert [(one["stream"], one["field"], one["count"]) for one in found["dead"]] == [
        ("events", None, 3),
        ("events", "event_type", 1),
    ]
    (advice,) = found["advice"]
    assert "4 messages became dead letters" in advice
    assert "dead-letters replay" in advice
    shown = feedloop(settings, "status")
    assert shown.exit_code == 0
    assert "event_type" in shown.output


@on_files
def test_loading_that_is_refused_is_a_failure(
    settings: Settings, log: EventLog, clock: FixedClock
) -> None:
    send(log, settings, event(1))
    load_all(settings, clock)
    shutil.rmtree(settings.log_dir / settings.topic("events"))
    log.create(settings.topic("events"))
    found = status(settings, exit_code=1)
    assert "--accept-loss events" in stream(found, "events")["refused"]
    assert "was deleted and made anew" in found["advice"][0]
    Losses(settings, open_catalog(settings), log, "events").accept(NOW, "me")
    found = status(settings)
    assert {one["reason"] for one in found["accepted_losses"]} == {"topic recreated"}
    assert "topic recreated" in feedloop(settings, "status").output


@on_files
def test_kafka_that_is_away(
    settings: Settings, log: EventLog, clock: FixedClock
) -> None:
    send(log, settings, event(1))
    load_all(settings, clock)
    (port,) = free_ports(1)
    away = msgspec.structs.replace(
        settings, log="kafka", kafka_bootstrap=f"127.0.0.1:{port}"
    )
    found = status(away, exit_code=1)
    assert "does not answer" in found["log_away"]
    assert found["advice"][0] == found["log_away"]
    assert table(found, "events")["rows"] == 1
    assert stream(found, "events")["load_seq"] == 1
    shown = feedloop(away, "status")
    assert shown.exit_code == 1
    assert "does not answer" in shown.output
