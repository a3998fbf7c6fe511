"""The collector over real HTTP, and what the log then holds."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest

from feedloop.clock import FixedClock
from feedloop.settings import Settings, to_environment
from loaders.loader import load_all
from tests.loaders.collecting import (
    COLLECT,
    EVENT,
    ITEM,
    USER,
    WRITE,
    problem_of,
    serving,
    stored,
)
from tests.loaders.sending import NOW, event_ids, rows

# --- events ------------------------------------------------------------------


def test_one_event(client: httpx.Client, settings: Settings) -> None:
    answer = client.post("/events", json=EVENT)
    assert (answer.status_code, answer.json()) == (
        202,
        {"event_id": "e1", "accepted": True},
    )
    assert stored(settings) == [EVENT]


def test_the_time_of_the_log_is_the_clocks(
    client: httpx.Client, settings: Settings, clock: FixedClock
) -> None:
    clock.at = NOW + timedelta(minutes=7, microseconds=1999)
    client.post("/events", json=EVENT)
    load_all(settings, clock)
    (row,) = rows(settings, "events")
    assert row["ingested_at"] == NOW + timedelta(minutes=7, milliseconds=1)


def test_an_event_without_an_id_gets_one(
    client: httpx.Client, settings: Settings
) -> None:
    sent = {name: value for name, value in EVENT.items() if name != "event_id"}
    ids = [
        client.post("/events", json=body).json()["event_id"]
        for body in (sent, sent, sent | {"event_id": None})
    ]
    assert len({str(uuid.UUID(text)) for text in ids}) == 3
    assert sorted(event["event_id"] for event in stored(settings)) == sorted(ids)


def test_an_idempotency_key_gives_the_same_ids_again(
    client: httpx.Client, settings: Settings, clock: FixedClock
) -> None:
    batch = [
        {"user_id": "u1", "item_id": f"i{n}"} | {k: EVENT[k] for k in list(EVENT)[3:]}
        for n in range(3)
    ]

    def ids(key: str) -> list[str]:
        answer = client.post("/events", json=batch, headers={"Idempotency-Key": key})
        assert answer.status_code == 202
        return [result["event_id"] for result in answer.json()["results"]]

    first, again, other = ids("a"), ids("a"), ids("b")
    assert first == again
    assert len({*first, *other}) == 6
    load_all(settings, clock)
    assert event_ids(settings) == sorted(first + other)


def test_an_idempotency_key_belongs_to_its_owner(
    settings: Settings, clock: FixedClock
) -> None:
    two = msgspec.structs.replace(settings, collect_keys="dev-collect,second")
    sent = {name: value for name, value in EVENT.items() if name != "event_id"}
    with serving(two, clock) as client:
        ids = {
            client.post(
                "/events", json=sent, headers={"X-API-Key": key, "Idempotency-Key": "k"}
            ).json()["event_id"]
            for key in ("dev-collect", "second")
        }
    assert len(ids) == 2


def test_aliases_are_resolved_and_unknown_context_is_kept(
    client: httpx.Client, settings: Settings
) -> None:
    mood = {"a": [1, None], "large": 2**70, "deep": nested(60)}
    context = {"position": 3, "surface": "homepage_feed", "mood": mood}
    answer = client.post(
        "/events", json=EVENT | {"context": context, "event_value": None}
    )
    assert answer.status_code == 202
    assert stored(settings) == [
        EVENT
        | {
            "context": {
                "page_position": 3,
                "surface": "homepage",
                "mood": mood,
            }
        }
    ]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_batch_names_what_it_refuses(
    client: httpx.Client, settings: Settings, wrapped: bool
) -> None:
    batch = [
        EVENT,
        EVENT | {"event_id": "e2", "event_type": "dance"},
        "not an object",
        EVENT | {"event_id": "e3"},
    ]
    answer = client.post("/events", json={"events": batch} if wrapped else batch)
    assert answer.status_code == 202
    body = answer.json()
    assert (body["accepted"], body["rejected"]) == (2, 2)
    good, unknown, no_object, also_good = body["results"]
    assert good == {"event_id": "e1", "accepted": True}
    assert also_good == {"event_id": "e3", "accepted": True}
    assert (unknown["event_id"], unknown["field"]) == ("e2", "event_type")
    assert "dance" in unknown["reason"]
    assert (no_object["event_id"], no_object["accepted"]) == (None, False)
    assert no_object["reason"] == "is not a JSON object"
    assert sorted(event["event_id"] for event in stored(settings)) == ["e1", "e3"]


def test_a_batch_with_nothing_good(client: httpx.Client, settings: Settings) -> None:
    answer = client.post("/events", json=[{"user_id": 7}, {}])
    assert answer.status_code == 422
    assert (answer.json()["accepted"], answer.json()["rejected"]) == (0, 2)
    assert stored(settings) == []


def nested(levels: int) -> dict[str, Any]:
    """``levels`` objects, one in the other."""
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"in": value}
    return value


BAD_EVENTS: list[tuple[dict[str, Any], str]] = [
    ({"user_id": None}, "user_id"),
    ({"user_id": ""}, "user_id"),
    ({"item_id": 5}, "item_id"),
    ({"item_id": "ü" * 65}, "item_id"),
    ({"event_id": ""}, "event_id"),
    ({"event_id": 5}, "event_id"),
    ({"event_type": "dance"}, "event_type"),
    ({"occurred_at": "yesterday"}, "occurred_at"),
    ({"occurred_at": "2026-03-01T11:00:00"}, "occurred_at"),
    ({"occurred_at": "2026-03-01T13:00:01Z"}, "occurred_at"),
    ({"occurred_at": "1989-12-31T00:00:00Z"}, "occurred_at"),
    ({"event_value": "high"}, "event_value"),
    ({"context": [1]}, "context"),
    ({"context": {"page_position": -1}}, "context.page_position"),
    ({"context": {"position": "top"}}, "context.page_position"),
    ({"context": {"session_id": "s" * 513}}, "context.session_id"),
    ({"context": {"note": "n" * 16_384}}, "context"),
    ({"colour": "red"}, "colour"),
    ({"context": nested(64)}, ""),
]


@pytest.mark.parametrize(("change", "field"), BAD_EVENTS)
def test_a_bad_event_is_422_that_names_the_field(
    client: httpx.Client, settings: Settings, change: dict[str, Any], field: str
) -> None:
    answer = client.post("/events", json=EVENT | change)
    assert answer.status_code == 422
    body = problem_of(answer)
    assert body["field"] == field
    assert body["reason"]
    assert body["reason"] in body["detail"]
    assert stored(settings) == []


def test_what_is_accepted_is_loaded(
    client: httpx.Client, settings: Settings, clock: FixedClock
) -> None:
    """At the very edge of the allowed clock skew, in microseconds too."""
    clock.at = NOW + timedelta(microseconds=999)
    edge = NOW + timedelta(seconds=settings.max_clock_skew_s)
    answers = [
        client.post(
            "/events",
            json=EVENT
            | {
                "event_id": f"e{us}",
                "occurred_at": (edge + timedelta(microseconds=us)).isoformat(),
            },
        ).status_code
        for us in (-1, 0, 1, 999, 1000)
    ]
    load_all(settings, clock)
    assert rows(settings, "dead_letters") == []
    assert len(event_ids(settings)) == answers.count(202)
    assert answers == [202, 202, 422, 422, 422]


# --- who may do what ---------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "right"),
    [
        ("POST", "/events", EVENT, "dev-collect"),
        ("PUT", "/items/i1", ITEM, "dev-write"),
        ("PUT", "/users/u1", USER, "dev-write"),
    ],
)
def test_keys_and_rights(
    client: httpx.Client, method: str, path: str, body: dict[str, Any], right: str
) -> None:
    def status(**headers: str) -> int:
        fresh = httpx.request(
            method,
            f"{client.base_url}{path}",
            json=body,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        if fresh.status_code != 202:
            problem_of(fresh)
        return fresh.status_code

    assert status() == 401
    assert status(X_API_Key="unknown") == 403
    assert status(X_API_Key="dev-read") == 403
    assert status(X_API_Key=right) == 202
    assert status(Authorization=f"Bearer {right}") == 202


def test_the_rate_limit_is_by_key(settings: Settings, clock: FixedClock) -> None:
    limited = msgspec.structs.replace(
        settings, rate_limit_per_s=1, collect_keys="dev-collect,other"
    )
    with serving(limited, clock) as client:
        answers = [client.post("/events", json=EVENT) for _ in range(20)]
        other = client.post("/events", json=EVENT, headers={"X-API-Key": "other"})
    refused = [answer for answer in answers if answer.status_code == 429]
    assert answers[0].status_code == other.status_code == 202
    assert refused
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)


# --- the catalogue -----------------------------------------------------------


def test_items_and_users(
    client: httpx.Client, settings: Settings, clock: FixedClock
) -> None:
    item = client.put(
        "/items/i%2F1", json=ITEM | {"title": None, "tags": ["a"]}, headers=WRITE
    )
    user = client.put("/users/u1", json=USER | {"user_id": "u1"}, headers=WRITE)
    assert (item.status_code, item.json()) == (
        202,
        {"item_id": "i/1", "accepted": True},
    )
    assert (user.status_code, user.json()) == (
        202,
        {"user_id": "u1", "accepted": True},
    )
    assert stored(settings, "items") == [ITEM | {"tags": ["a"], "item_id": "i/1"}]
    assert stored(settings, "users") == [USER | {"user_id": "u1"}]
    load_all(settings, clock)
    assert [row["item_id"] for row in rows(settings, "items")] == ["i/1"]
    assert [row["user_id"] for row in rows(settings, "users")] == ["u1"]


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/items/i1", ITEM | {"item_id": "i2"}, 422, "item_id"),
        ("/users/u1", USER | {"user_id": 1}, 422, "user_id"),
        ("/items/i1", {"category": "news"}, 422, "published_at"),
        ("/items/i1", ITEM | {"published_at": "soon"}, 422, "published_at"),
        ("/items/i1", ITEM | {"colour": "red"}, 422, "colour"),
        ("/items/i1", ITEM | {"metadata": nested(400)}, 422, ""),
        ("/users/u1", {}, 422, "created_at"),
        ("/users/u1", [USER], 422, ""),
    ],
)
def test_records_that_are_refused(
    client: httpx.Client,
    settings: Settings,
    path: str,
    body: Any,
    status: int,
    field: str,
) -> None:
    answer = client.put(path, json=body, headers=WRITE)
    assert answer.status_code == status
    assert problem_of(answer)["field"] == field
    assert stored(settings, "items") == stored(settings, "users") == []


@pytest.mark.parametrize("path", ["/items/", f"/items/{'i' * 129}", "/users/%ff"])
def test_paths_that_are_no_id(client: httpx.Client, path: str) -> None:
    answer = client.put(path, json=ITEM, headers=WRITE)
    assert answer.status_code in (404, 422)
    problem_of(answer)


# --- the rest ----------------------------------------------------------------


def test_health_and_metrics(client: httpx.Client) -> None:
    client.post("/events", json=[EVENT, EVENT | {"event_type": "dance"}])
    client.post("/events", json={})
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}
    text = client.get("/metrics").text
    for line in (
        'feedloop_messages_stored_total{topic="t1.events"} 1.0',
        'feedloop_messages_refused_total{field="event_type",stream="events"} 1.0',
        'feedloop_messages_refused_total{field="user_id",stream="events"} 1.0',
        "feedloop_append_seconds_count 1.0",
        "feedloop_log_away_seconds 0.0",
        "feedloop_append_messages_count 1.0",
        "feedloop_messages_waiting 0.0",
        'feedloop_http_requests_total{method="POST",path="/events",status="202"} 1.0',
    ):
        assert line in text


def test_openapi_says_what_to_send_and_what_comes_back(client: httpx.Client) -> None:
    document = client.get("/schema/openapi.json").json()
    post = document["paths"]["/events"]["post"]
    assert {"202", "400", "401", "403", "413", "422", "429", "503"} <= set(
        post["responses"]
    )
    body = post["requestBody"]["content"]["application/json"]
    one, batch, wrapped = body["schema"]["oneOf"]
    assert one["required"] == ["user_id", "item_id", "event_type", "occurred_at"]
    assert "page_position" in one["properties"]["context"]["properties"]
    assert batch["items"] == one
    assert wrapped["properties"]["events"] == batch
    for path in ("/items/{item_id}", "/users/{user_id}"):
        put = document["paths"][path]["put"]
        assert put["requestBody"]["content"]["application/json"]["schema"]["required"]
    # the examples are what they say: each is accepted
    for example in body["examples"].values():
        sent = example["value"]
        now = {"occurred_at": NOW.isoformat()}
        sent = [one | now for one in sent] if isinstance(sent, list) else sent | now
        assert client.post("/events", json=sent).status_code == 202


def test_a_hundred_clients_at_once_lose_nothing(
    client: httpx.Client, settings: Settings, clock: FixedClock
) -> None:
    def post(number: int) -> int:
        batch = [
            EVENT | {"event_id": f"e{number}-{n}", "user_id": f"u{n}"} for n in range(3)
        ]
        return client.post("/events", json=batch).status_code

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(post, range(100))) == {202}
    load_all(settings, clock)
    assert event_ids(settings) == sorted(
        f"e{number}-{n}" for number in range(100) for n in range(3)
    )


# --- the command -------------------------------------------------------------


@pytest.fixture
def collect(settings: Settings) -> Callable[..., subprocess.Popen[str]]:
    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "feedloop", "collect", *arguments],
            env=os.environ | to_environment(settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_the_command_serves_until_it_is_told_to_stop(
    collect: Callable[..., subprocess.Popen[str]], settings: Settings
) -> None:
    with collect("--port", "0") as process:
        assert process.stdout is not None
        found = re.fullmatch(
            r"listening on (http://127\.0\.0\.1:\d+)\n", process.stdout.readline()
        )
        assert found is not None
        now = {"occurred_at": "2026-03-01T00:00:00Z"}
        answer = httpx.post(f"{found[1]}/events", json=EVENT | now, headers=COLLECT)
        assert answer.status_code == 202
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, ""), err
    assert [event["event_id"] for event in stored(settings)] == ["e1"]


def test_a_port_in_use_is_one_sentence(
    collect: Callable[..., subprocess.Popen[str]],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with collect("--port", str(port)) as process:
            _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.fullmatch(rf"feedloop: Port {port} .* in use; .*\n", err)
