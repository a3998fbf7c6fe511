"""The collector on a real Kafka broker: one that is away, hangs, comes back,
refuses a part, forgets a topic or compacts it.

What was answered with 202 must be in the log; what was answered with 503 may be.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from feedloop.clock import FixedClock
from feedloop.settings import Settings, from_environment, to_environment
from loaders.loader import load_all
from tests.loaders.collecting import (
    COLLECT,
    EVENT,
    ITEM,
    WRITE,
    problem_of,
    serving,
    stored,
)
from tests.loaders.sending import rows
from tests.support.kafka_broker import KafkaBroker

BACK_S = 120.0
"""Longer than the client waits between two tries of a connection."""
VERSIONS = 200


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    with KafkaBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def broker(started: KafkaBroker) -> Iterator[KafkaBroker]:
    """One that may be made to hang; each test has topics of its own."""
    yield started
    started.resume()


def settings_for(broker: KafkaBroker, home: Path) -> Settings:
    return from_environment(
        {},
        home=str(home),
        namespace=f"t{uuid.uuid4().hex[:12]}",
        log="kafka",
        log_partitions=3,
        kafka_bootstrap=broker.bootstrap,
    )


@pytest.fixture
def settings(tmp_path: Path, broker: KafkaBroker) -> Settings:
    return settings_for(broker, tmp_path)


def event(number: int) -> dict[str, Any]:
    return EVENT | {"event_id": f"e{number}", "user_id": f"u{number}"}


def ids(settings: Settings) -> set[str]:
    return {found["event_id"] for found in stored(settings)}


def until(client: httpx.Client, status: int, body: Any) -> httpx.Response:
    """Send ``body`` until the answer is ``status``."""
    deadline = time.monotonic() + BACK_S
    while time.monotonic() < deadline:
        answer = client.post("/events", json=body)
        if answer.status_code == status:
            return answer
    raise AssertionError(f"never {status}: {answer.text}")


def assert_away(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    return problem_of(answer)


def test_away_at_the_start_then_there_then_away_then_back(
    clock: FixedClock, tmp_path: Path
) -> None:
    broker = KafkaBroker(tmp_path / "kafka")
    settings = settings_for(broker, tmp_path)
    with serving(settings, clock) as client:
        assert_away(client.post("/events", json=event(1)))
        assert_away(client.get("/readyz"))
        assert client.get("/healthz").status_code == 200
        with broker:
            # no one but the client's own request creates the topics
            until(client, 202, event(1))
            assert client.get("/readyz").status_code == 200
            assert "feedloop_log_away_seconds 0.0\n" in client.get("/metrics").text
            broker.kill()
            late = assert_away(client.post("/events", json=event(2)))
            assert (late["event_id"], late["accepted"]) == ("e2", False)
            assert "feedloop_log_away_seconds 0.0\n" not in client.get("/metrics").text
            broker.start()
            until(client, 202, event(3))
            assert {"e1", "e3"} <= ids(settings) <= {"e1", "e2", "e3"}


def test_a_broker_that_hangs_is_503_for_all_who_wait(
    settings: Settings, clock: FixedClock, broker: KafkaBroker
) -> None:
    """And once it goes on, events are stored again by the same process."""
    with serving(settings, clock) as client, ThreadPoolExecutor(20) as pool:
        until(client, 202, event(0))
        broker.pause()
        for again in range(3):
            numbers = range(100 * again, 100 * again + 20)
            sent = pool.map(lambda n: client.post("/events", json=event(n)), numbers)
            for answer in sent:
                assert_away(answer)
        assert_away(client.get("/readyz"))
        broker.resume()
        until(client, 202, event(1000))
        accepted = {
            number
            for number in range(2000, 2050)
            if client.post("/events", json=event(number)).status_code == 202
        }
        assert len(accepted) == 50
        assert {"e0", "e1000", *(f"e{n}" for n in accepted)} <= ids(settings)


def test_a_broker_that_hangs_at_the_start(
    settings: Settings, clock: FixedClock, broker: KafkaBroker
) -> None:
    broker.pause()
    with serving(settings, clock) as client:
        assert_away(client.post("/events", json=event(1)))
        assert_away(client.get("/readyz"))
        broker.resume()
        until(client, 202, event(2))
    assert "e2" in ids(settings)


def test_a_503_for_a_batch_says_under_which_ids_to_send_it_again(
    settings: Settings, clock: FixedClock, broker: KafkaBroker
) -> None:
    nameless = [
        {name: value for name, value in event(n).items() if name != "event_id"}
        for n in range(3)
    ]
    bad = EVENT | {"event_type": "dance"}
    with serving(settings, clock) as client:
        broker.pause()
        body = assert_away(client.post("/events", json=[*nameless, bad]))
        broker.resume()
        assert (body["accepted"], body["rejected"]) == (0, 4)
        *again, refused = body["results"]
        assert all(one["retry"] and not one["accepted"] for one in again)
        assert "retry" not in refused
        named = [
            sent | {"event_id": one["event_id"]}
            for sent, one in zip(nameless, again, strict=True)
        ]
        until(client, 202, named)
        load_all(settings, clock)
    found = [row["event_id"] for row in rows(settings, "events")]
    assert sorted(found) == sorted(one["event_id"] for one in again)


def configure(broker: KafkaBroker, topic: str, **configs: str) -> None:
    named = {name.replace("_", "."): value for name, value in configs.items()}
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, named)])


def test_a_batch_that_is_partly_stored_says_which(
    settings: Settings, clock: FixedClock, broker: KafkaBroker
) -> None:
    large = event(0) | {"context": {"note": os.urandom(5000).hex()}}
    with serving(settings, clock) as client:
        until(client, 202, event(99))
        configure(broker, settings.topic("events"), max_message_bytes="3000")
        body = assert_away(
            client.post("/events", json=[large, *(event(n) for n in range(1, 30))])
        )
        told = {one["event_id"] for one in body["results"] if one["accepted"]}
        again = {one["event_id"] for one in body["results"] if one.get("retry")}
        assert body["accepted"] == len(told)
        assert told | again == {f"e{n}" for n in range(30)}
        assert told
        assert "e0" in again
        assert told <= ids(settings) <= {"e99", *told, *again} - {"e0"}


def test_a_topic_that_was_deleted_is_made_again(
    settings: Settings, clock: FixedClock, broker: KafkaBroker
) -> None:
    with serving(settings, clock) as client:
        until(client, 202, event(1))
        with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
            admin.delete_topics([settings.topic("events")])
        until(client, 503, event(2))
        until(client, 202, event(3))
        assert "e3" in ids(settings)


def test_the_catalogues_topics_are_compacted_and_read_after_it(
    settings: Settings, clock: FixedClock, broker: KafkaBroker
) -> None:
    topic = settings.topic("items")
    with serving(settings, clock) as client:
        until(client, 202, event(0))
        with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
            policies = {
                stream: policy_of(admin, settings.topic(stream))
                for stream in ("events", "items", "users")
            }
        assert policies == {"events": "delete", "items": "compact", "users": "compact"}
        configure(
            broker,
            topic,
            cleanup_policy="compact",
            segment_ms="100",
            min_cleanable_dirty_ratio="0.01",
        )

        def put(title: str) -> None:
            clock.at += timedelta(seconds=1)  # segments end by the records' time
            for number in range(5):
                item = ITEM | {"title": title}
                answer = client.put(f"/items/i{number}", json=item, headers=WRITE)
                assert answer.status_code == 202

        versions = 0
        while len(stored(settings, "items")) == 5 * versions:
            assert versions < VERSIONS, "nothing was compacted"
            put(f"version {versions}")
            versions += 1
        load_all(settings, clock)
    newest = stored_titles(settings)
    assert set(newest) == {f"i{number}" for number in range(5)}
    assert len(set(newest.values())) == 1
    assert rows(settings, "dead_letters") == []


def stored_titles(settings: Settings) -> dict[str, str]:
    """The title of the newest version of every item in the table."""
    versions = sorted(rows(settings, "items"), key=lambda row: row["log_offset"])
    return {row["item_id"]: row["title"] for row in versions}


def policy_of(admin: KafkaAdminClient, topic: str) -> str:
    """``cleanup.policy`` as it stands, set or the default."""
    found = admin.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, topic)], config_filter="all"
    )
    value: str = found["topic"][topic]["cleanup.policy"]["value"]
    return value


@pytest.fixture
def collect(settings: Settings) -> Callable[..., subprocess.Popen[str]]:
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "feedloop", "collect", "--port", "0"],
            env=os.environ | to_environment(settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_a_collector_told_to_stop_under_load_stores_what_it_accepted(
    collect: Callable[..., subprocess.Popen[str]],
    settings: Settings,
    broker: KafkaBroker,
) -> None:
    with collect() as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        url = f"{found[0]}/events"
        with httpx.Client(base_url=found[0], headers=COLLECT) as client:
            until(client, 202, event(1) | {"occurred_at": "2026-03-01T00:00:00Z"})

        def send(client_number: int) -> tuple[set[str], int]:
            """Until nobody answers; what was accepted."""
            accepted: set[str] = set()
            now = {"occurred_at": "2026-03-01T00:00:00Z"}
            with httpx.Client(headers=COLLECT) as client:
                for n in range(100_000):
                    one = event(client_number * 100_000 + n) | now
                    try:
                        answer = client.post(url, json=one)
                    except httpx.TransportError:
                        return accepted, n
                    assert answer.status_code == 202
                    accepted.add(one["event_id"])
                    if client_number == 0 and n == 50:
                        process.send_signal(signal.SIGTERM)
            raise AssertionError("it was told to stop and went on")

        with ThreadPoolExecutor(8) as pool:
            accepted = set().union(*(told for told, _ in pool.map(send, range(8))))
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert len(accepted) > 50
        assert accepted <= {found["event_id"] for found in stored(settings)}
