"""What a body may be, and what an answer says of one that is refused."""

from __future__ import annotations

import gzip
import socket

import httpx
import msgspec
import pytest

from feedloop.clock import FixedClock
from feedloop.settings import Settings
from tests.loaders.collecting import EVENT, problem_of, serving, stored


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"nonsense", 400),
        (b'"an event"', 400),
        (b"7", 400),
        (b"null", 400),
        (b'{"user_id": "\xff"}', 400),
        (b'{"user_id": "\\ud800"}', 400),
        (b"[" * 100_000, 400),
        (b"[]", 422),
        (b'{"events": []}', 422),
        (b'{"events": {}}', 422),
    ],
    ids=lambda value: str(value)[:24],
)
def test_bodies_that_are_no_events(
    client: httpx.Client, body: bytes, status: int
) -> None:
    answer = client.post("/events", content=body)
    assert answer.status_code == status
    problem_of(answer)


def test_gzip(client: httpx.Client, settings: Settings) -> None:
    body = gzip.compress(msgspec.json.encode([EVENT]))
    answer = client.post("/events", content=body, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 202
    assert stored(settings) == [EVENT]


@pytest.mark.parametrize(
    "content_type", ["application/x-ndjson", "application/jsonl; charset=utf-8"]
)
def test_json_lines_are_a_batch(
    client: httpx.Client, settings: Settings, content_type: str
) -> None:
    lines = [EVENT, EVENT | {"event_id": "e2", "user_id": 5}, EVENT | {"user_id": "u2"}]
    body = b"\n\n".join(map(msgspec.json.encode, lines)) + b"\n"
    answer = client.post(
        "/events", content=body, headers={"Content-Type": content_type}
    )
    assert answer.status_code == 202
    accepted = [result["accepted"] for result in answer.json()["results"]]
    assert accepted == [True, False, True]
    assert {event["user_id"] for event in stored(settings)} == {"u1", "u2"}


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json; charset=UTF-8", 202),
        ('application/json; charset="utf-8"; version=1', 202),
        ("text/plain", 202),
        ("application/x-www-form-urlencoded", 202),
        ("application/json; charset=utf-16", 415),
    ],
)
def test_content_types(client: httpx.Client, content_type: str, status: int) -> None:
    answer = client.post(
        "/events",
        content=msgspec.json.encode(EVENT),
        headers={"Content-Type": content_type},
    )
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", b"this is no gzip", 400),
        ("gzip", gzip.compress(b"[" + b" " * 9000)[:-4], 400),
        ("gzip", gzip.compress(b"{}") * 2, 400),
        ("gzip", gzip.compress(b"[" + b" " * 2_000_000), 413),
        ("br", b"anything", 415),
    ],
    ids=["no gzip", "torn", "two", "a bomb", "brotli"],
)
def test_encodings_that_are_refused(
    client: httpx.Client, encoding: str, body: bytes, status: int
) -> None:
    answer = client.post(
        "/events", content=body, headers={"Content-Encoding": encoding}
    )
    assert answer.status_code == status
    problem_of(answer)


def test_a_body_at_the_limit_and_one_beyond(
    settings: Settings, clock: FixedClock
) -> None:
    small = msgspec.structs.replace(settings, max_body_bytes=2000)
    body = msgspec.json.encode(EVENT)
    with serving(small, clock) as client:
        fits = client.post("/events", content=body + b" " * (2000 - len(body)))
        too_large = client.post("/events", content=body + b" " * (2001 - len(body)))
        streamed = client.post("/events", content=(b" " * 1000 for _ in range(5000)))
    assert fits.status_code == 202
    assert (too_large.status_code, streamed.status_code) == (413, 413)
    assert "2000 bytes" in problem_of(too_large)["detail"]


def test_a_client_that_goes_away_halfway_stores_nothing_and_is_no_error_of_ours(
    client: httpx.Client, settings: Settings
) -> None:
    body = msgspec.json.encode(EVENT)
    head = "POST /events HTTP/1.1\r\nHost: x\r\nX-API-Key: dev-collect\r\n"
    head += f"Content-Length: {len(body) + 10}\r\n\r\n"
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address) as connection:
        connection.sendall(head.encode() + body)
    gone = 'feedloop_http_requests_total{method="POST",path="/events",status="400"} 1.0'
    for _ in range(1000):
        if gone in client.get("/metrics").text:
            break
    else:
        raise AssertionError("it was never noticed")
    assert stored(settings) == []


def test_a_batch_of_too_many(settings: Settings, clock: FixedClock) -> None:
    small = msgspec.structs.replace(settings, max_batch_events=3)
    with serving(small, clock) as client:
        batch = [EVENT | {"event_id": f"e{n}"} for n in range(4)]
        assert client.post("/events", json=batch[:3]).status_code == 202
        answer = client.post("/events", json=batch)
    assert answer.status_code == 413
    assert "3 at most" in problem_of(answer)["detail"]
