"""``feedloop load`` and ``feedloop dead-letters`` as a person or cron runs them."""

from __future__ import annotations

import base64
import resource
import signal
from contextlib import closing
from datetime import UTC, datetime

import msgspec
import pytest

from feedloop.clock import FixedClock
from feedloop.contracts.log import EventLog, Message
from feedloop.errors import TablesUnavailable, WarehouseEmpty
from feedloop.settings import Settings
from loaders.loader import load_all
from loaders.log import create_topics, open_log
from tests.loaders.commands import feedloop, lines, start
from tests.loaders.sending import NOW, event, event_ids, send


def test_nothing_to_load_is_said_and_no_failure(settings: Settings) -> None:
    result = feedloop(settings, "load")
    assert result.exit_code == 0
    assert "no topic of t1 yet; `feedloop collect`" in result.output


def test_a_load_says_what_it_did(settings: Settings, log: EventLog) -> None:
    send(log, settings, event(1), event(2), event(1))
    log.append("t1.events", [Message("k", b"bad", NOW)])
    result = feedloop(settings, "load")
    assert result.exit_code == 0
    assert "events: 2 rows, 1 dead letters, 1 duplicates" in result.output
    assert "feedloop dead-letters" in result.output
    assert feedloop(settings, "load").output == "Nothing new in the log.\n"


def test_a_load_as_json(settings: Settings, log: EventLog) -> None:
    send(log, settings, event(1))
    (report,) = msgspec.json.decode(feedloop(settings, "load", "--json").stdout)
    expected = {"stream": "events", "rows": 1, "dead_letters": 0, "duplicates": 0}
    assert report.items() >= expected.items()
    assert (report["load_seq"], set(report["offsets_to"])) == (1, {"0", "1"})
    assert msgspec.json.decode(feedloop(settings, "load", "--json").stdout) == []


def test_a_full_disk_is_a_sentence_and_the_next_load_goes_on(
    settings: Settings, log: EventLog
) -> None:
    send(log, settings, event(1))
    assert feedloop(settings, "load").exit_code == 0
    send(log, settings, *map(event, range(2, 400)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(TablesUnavailable, match="free space or mend that"):
            load_all(settings, FixedClock(NOW))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (report,) = load_all(settings, FixedClock(NOW))
    assert (report.rows, report.load_seq) == (398, 2)


@pytest.mark.parametrize("period", ["0s", "soon", "60", "-1m"])
def test_periods_that_are_none(settings: Settings, period: str) -> None:
    result = feedloop(settings, "load", f"--every={period}")
    assert result.exit_code == 2
    assert "60s, 5m or 1h" in result.output


def test_every_so_often_until_it_is_told_to_stop(
    settings: Settings, log: EventLog
) -> None:
    send(log, settings, event(1))
    with start(settings, "load", "--every", "0.05s") as process:
        (first,) = lines(process, 1)
        send(log, settings, event(2), event(3))
        (second,) = lines(process, 1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert (first["event"], first["rows"], first["load_seq"]) == ("batch", 1, 1)
    assert (second["stream"], second["rows"], second["load_seq"]) == ("events", 2, 2)
    # since the newest of its records came into the log
    lag = datetime.now(UTC) - NOW
    assert 0 <= lag.total_seconds() - second["lag_s"] < 3600
    assert event_ids(settings) == ["e1", "e2", "e3"]


def test_told_to_stop_it_ends_after_a_batch_and_not_after_the_backlog(
    settings: Settings, log: EventLog, clock: FixedClock
) -> None:
    one_by_one = msgspec.structs.replace(settings, load_max_events=1)
    send(log, settings, *map(event, range(400)))
    with start(one_by_one, "load", "--every", "1h") as process:
        lines(process, 1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    stored = len(event_ids(settings))
    assert stored == 1 + len(err.splitlines())  # a line for every batch
    assert stored < 400
    load_all(settings, clock)
    assert len(event_ids(settings)) == 400


def test_a_log_that_is_away_is_a_line_and_another_try(settings: Settings) -> None:
    settings.log_dir.parent.mkdir(parents=True)
    settings.log_dir.write_text("a file where a folder should be")
    with start(settings, "load", "--every", "0.05s") as process:
        (told,) = lines(process, 1)
        assert told["event"] == "batch left out"
        settings.log_dir.unlink()
        with closing(open_log(settings, FixedClock(NOW))) as log:
            create_topics(log, settings)
            send(log, settings, event(1))
        while (told := lines(process, 1)[0])["event"] != "batch":
            pass
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert (process.returncode, told["rows"]) == (0, 1)


def test_a_log_that_is_away_fails_a_single_load(settings: Settings) -> None:
    settings.log_dir.parent.mkdir(parents=True)
    settings.log_dir.write_text("a file where a folder should be")
    with start(settings, "load") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("feedloop: The log of t1.")
    assert err.count("\n") == 1


# --- dead letters ------------------------------------------------------------


@pytest.fixture
def letters(settings: Settings, log: EventLog, clock: FixedClock) -> list[bytes]:
    """Three messages that can't be stored, the newest first."""
    values = [b'{"event_id": 3}', b"\xff\xfe", b"x" * 500]
    for value in reversed(values):
        log.append("t1.events", [Message("k", value)])
        clock.at = clock.at.replace(minute=clock.at.minute + 1)
    load_all(settings, clock)
    return values


def test_dead_letters_with_reason_and_first_bytes(
    settings: Settings, letters: list[bytes]
) -> None:
    for arguments in (["dead-letters"], ["dead-letters", "list"]):
        result = feedloop(settings, *arguments)
        assert result.exit_code == 0
        assert "event_id" in result.output
        assert "\\xff" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["dead-letters", "--limit", "2", "--json"],
        ["dead-letters", "list", "--limit", "2", "--json"],
    ],
)
def test_dead_letters_as_json(
    settings: Settings, letters: list[bytes], arguments: list[str]
) -> None:
    found = msgspec.json.decode(feedloop(settings, *arguments).stdout)
    assert [base64.b64decode(one["value"]) for one in found] == letters[:2]
    assert (
        found[0].items()
        >= {
            "stream": "events",
            "field": "event_id",
            "key": "k",
            "reason": "Expected `str`, got `int`",
        }.items()
    )
    assert {"log_partition", "log_offset", "ingested_at"} <= set(found[0])


def test_no_dead_letters(settings: Settings, log: EventLog) -> None:
    result = feedloop(settings, "dead-letters")
    assert isinstance(result.exception, WarehouseEmpty)
    send(log, settings, event(1))
    assert feedloop(settings, "load").exit_code == 0
    assert feedloop(settings, "dead-letters").output == "No dead letters.\n"
