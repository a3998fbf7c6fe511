"""Requests that wait for the log: together, bounded, and told in time."""

from __future__ import annotations

import resource
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from feedloop.clock import FixedClock
from feedloop.contracts.log import Batch, EventLog, Message, TopicState
from feedloop.errors import LogUnavailable, PartlyStored
from feedloop.settings import Settings
from loaders import group_append
from loaders.log import open_log
from tests.loaders.collecting import EVENT, ITEM, WRITE, problem_of, serving, stored


class GatedLog:
    """A real log whose appends wait at a gate, and may find it broken."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.arrived = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.broken = False
        self.keeps: set[str] | None = None
        self.appends: list[list[str]] = []

    def append(self, topic: str, messages: Sequence[Message]) -> None:
        self.appends.append([message.key for message in messages])
        self.arrived.release()
        self.gate.acquire()
        if self.broken:
            raise LogUnavailable("The log is broken; try again.")
        if self.keeps is not None:
            stored = [message.key in self.keeps for message in messages]
            self._log.append(
                topic, [m for m, kept in zip(messages, stored, strict=True) if kept]
            )
            raise PartlyStored("The log took a part; send the rest again.", stored)
        self._log.append(topic, messages)

    def create(self, topic: str, *, compacted: bool = False) -> None:
        self._log.create(topic, compacted=compacted)

    def state(self, topic: str) -> TopicState | None:
        return self._log.state(topic)

    def read(
        self,
        topic: str,
        offsets: Mapping[int, int],
        limit: int,
        only: Collection[int] | None = None,
    ) -> Batch:
        return self._log.read(topic, offsets, limit, only)

    def close(self) -> None:
        self._log.close()


def test_no_answer_before_the_log_has_it_and_what_waits_goes_together(
    settings: Settings, clock: FixedClock
) -> None:
    log = GatedLog(open_log(settings, clock))
    with serving(settings, clock, log) as client, ThreadPoolExecutor(8) as pool:

        def post(number: int) -> httpx.Response:
            event = EVENT | {"event_id": f"e{number}", "user_id": f"u{number}"}
            return client.post("/events", json=event)

        first = pool.submit(post, 0)
        assert log.arrived.acquire(timeout=30)  # at once: the log was idle
        later = [pool.submit(post, number) for number in range(1, 6)]
        waiting(client, 6)
        assert not first.done()
        log.gate.release(1)
        assert first.result().status_code == 202
        assert log.arrived.acquire(timeout=30)
        assert not any(one.done() for one in later)
        log.gate.release(1)
        assert [one.result().status_code for one in later] == [202] * 5
    assert log.appends[0] == ["u0"]
    assert sorted(log.appends[1]) == [f"u{n}" for n in range(1, 6)]
    assert len(stored(settings)) == 6


def waiting(client: httpx.Client, count: int) -> None:
    """Ask until ``count`` messages wait for the log."""
    wanted = f"feedloop_messages_waiting {count}.0"
    for _ in range(1000):
        if wanted in client.get("/metrics").text:
            return
    raise AssertionError(f"{count} messages never waited")


def test_a_log_that_is_away_is_503(settings: Settings, clock: FixedClock) -> None:
    log = GatedLog(open_log(settings, clock))
    log.gate.release(3)
    log.broken = True
    with serving(settings, clock, log) as client:
        for answer in (
            client.post("/events", json=EVENT),
            client.post("/events", json=[EVENT]),
            client.put("/items/i1", json=ITEM, headers=WRITE),
        ):
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) >= 1
            assert "broken" in problem_of(answer)["detail"]
        assert stored(settings) == []
        log.broken = False
        log.gate.release(1)
        assert client.post("/events", json=EVENT).status_code == 202
    assert stored(settings) == [EVENT]


def test_too_many_waiting_is_503(
    settings: Settings, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_append, "MOST_WAITING", 2)
    log = GatedLog(open_log(settings, clock))
    with serving(settings, clock, log) as client, ThreadPoolExecutor(2) as pool:
        held = [pool.submit(client.post, "/events", json=EVENT) for _ in range(2)]
        waiting(client, 2)
        answer = client.post("/events", json=EVENT)
        log.gate.release(2)
        assert [one.result().status_code for one in held] == [202, 202]
    assert answer.status_code == 503
    assert "2 events wait" in problem_of(answer)["detail"]


def test_a_part_that_is_stored_is_told_to_those_who_sent_it(
    settings: Settings, clock: FixedClock
) -> None:
    """Three requests in one append, of which the log takes two users' events."""
    log = GatedLog(open_log(settings, clock))
    by_user = [EVENT | {"event_id": f"e{n}", "user_id": f"u{n}"} for n in range(5)]
    with serving(settings, clock, log) as client, ThreadPoolExecutor(4) as pool:
        held = pool.submit(client.post, "/events", json=EVENT | {"event_id": "first"})
        assert log.arrived.acquire(timeout=30)
        whole = pool.submit(client.post, "/events", json=by_user[:2])
        waiting(client, 3)
        partly = pool.submit(client.post, "/events", json=by_user[1:4])
        waiting(client, 6)
        nothing = pool.submit(client.post, "/events", json=by_user[4])
        waiting(client, 7)
        log.gate.release(1)
        assert held.result().status_code == 202
        assert log.arrived.acquire(timeout=30)
        log.keeps = {"u0", "u1"}
        log.gate.release(1)
        answers = [one.result() for one in (whole, partly, nothing)]
    assert [answer.status_code for answer in answers] == [202, 503, 503]
    body = answers[1].json()
    accepted = [one["event_id"] for one in body["results"] if one["accepted"]]
    again = [one["event_id"] for one in body["results"] if one.get("retry")]
    assert (accepted, again) == (["e1"], ["e2", "e3"])
    assert (body["accepted"], body["rejected"]) == (1, 2)
    assert {event["event_id"] for event in stored(settings)} == {"first", "e0", "e1"}


def test_more_waiting_bytes_than_are_held_is_503(
    settings: Settings, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_append, "BYTES_WAITING", 500)
    log = GatedLog(open_log(settings, clock))
    large = EVENT | {"context": {"note": "n" * 300}}
    with serving(settings, clock, log) as client, ThreadPoolExecutor(1) as pool:
        held = pool.submit(client.post, "/events", json=large)
        waiting(client, 1)
        answer = client.post("/events", json=large)
        log.gate.release(2)
        assert held.result().status_code == 202
        assert client.post("/events", json=large).status_code == 202
    assert answer.status_code == 503


def test_whoever_waits_is_told_in_time_though_the_log_says_nothing(
    settings: Settings, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was handed to the log may still be stored, what waited is dropped."""
    monkeypatch.setattr(group_append, "ANSWER_S", 0.05)
    log = GatedLog(open_log(settings, clock))
    with serving(settings, clock, log) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/events", json=EVENT)
        assert log.arrived.acquire(timeout=30)
        dropped = client.post("/events", json=EVENT | {"event_id": "e2"})
        for answer in (first.result(), dropped):
            assert answer.status_code == 503
            assert "has not answered" in problem_of(answer)["detail"]
        log.gate.release(1)
    assert [event["event_id"] for event in stored(settings)] == ["e1"]


def test_no_space_is_503_and_then_202_again(
    settings: Settings, clock: FixedClock
) -> None:
    with serving(settings, clock) as client:
        assert client.post("/events", json=EVENT).status_code == 202
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        try:
            full = client.post("/events", json=EVENT | {"event_id": "e2"})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        again = client.post("/events", json=EVENT | {"event_id": "e2"})
    assert (full.status_code, again.status_code) == (503, 202)
    assert "free space" in problem_of(full)["detail"]
    assert [event["event_id"] for event in stored(settings)] == ["e1", "e2"]
