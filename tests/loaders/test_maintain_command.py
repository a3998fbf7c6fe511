"""``feedloop maintain``, and the maintenance that ``load --every`` does."""

from __future__ import annotations

import signal
from contextlib import closing

import msgspec
import pytest

from feedloop.clock import FixedClock
from feedloop.contracts.log import EventLog
from feedloop.settings import Settings
from loaders.iceberg import open_catalog, open_table
from loaders.loader import load_all
from loaders.log import create_topics, open_log
from tests.loaders.commands import feedloop, lines, start
from tests.loaders.sending import event, event_ids, send


@pytest.fixture
def loaded(settings: Settings, clock: FixedClock) -> EventLog:
    """Six commits of an event each, of one day."""
    with closing(open_log(settings, clock)) as log:
        create_topics(log, settings)
        for number in range(6):
            send(log, settings, event(number))
            load_all(settings, clock)
    return log


def files(settings: Settings) -> int:
    table = open_table(open_catalog(settings), settings, "events")
    return len(list(table.scan().plan_files()))


def test_nothing_to_maintain(settings: Settings) -> None:
    result = feedloop(settings, "maintain")
    assert result.exit_code == 0
    assert result.output.startswith("t1_raw holds no table yet")


def test_it_says_what_it_did(settings: Settings, loaded: EventLog) -> None:
    result = feedloop(settings, "maintain")
    assert result.exit_code == 0
    assert "events: 6 files" in result.output
    assert "became 1" in result.output
    assert files(settings) == 1
    again = msgspec.json.decode(feedloop(settings, "maintain", "--json").stdout)
    assert next(one["table"] for one in again) == "events"
    assert {one["compacted"]["files_before"] for one in again} == {0}
    assert len(event_ids(settings)) == 6


def test_every_so_often_until_it_is_told_to_stop(
    settings: Settings, loaded: EventLog
) -> None:
    with start(settings, "maintain", "--every", "0.05s") as process:
        first = lines(process, 1)[0]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert (first["event"], first["table"]) == ("table", "events")
    assert first["compacted"]["files_after"] == 1


def test_the_loader_maintains_by_itself(settings: Settings, loaded: EventLog) -> None:
    often = msgspec.structs.replace(settings, maintain_every_s=1)
    with start(often, "load", "--every", "0.1s") as process:
        while (told := lines(process, 1)[0])["event"] != "maintenance":
            pass
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert (told["table"], told["compacted"]["files_before"]) == ("events", 6)
    assert files(settings) == 1
    assert len(event_ids(settings)) == 6
