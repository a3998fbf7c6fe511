"""Keys, limits, ports: what both servers share."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from litestar.exceptions import (
    NotAuthorizedException,
    PermissionDeniedException,
    TooManyRequestsException,
)

from feedloop.http import Access, ApiKeys, Right, TokenBuckets
from feedloop.settings import from_environment, to_environment

KEYS = from_environment(
    {"FEEDLOOP_READ_KEYS": "one, two", "FEEDLOOP_WRITE_KEYS": "two"}
)


def test_a_key_carries_the_rights_it_was_given() -> None:
    keys = ApiKeys(KEYS)
    one, two = [(b"x-api-key", b"one")], [(b"authorization", b"Bearer two")]
    assert keys.caller(one, Right.READ).rights == {Right.READ}
    assert keys.caller(two, Right.WRITE).rights == {Right.READ, Right.WRITE}
    with pytest.raises(PermissionDeniedException):
        keys.caller(one, Right.WRITE)
    with pytest.raises(PermissionDeniedException):
        keys.caller([(b"x-api-key", b"three")], Right.READ)
    with pytest.raises(NotAuthorizedException):
        keys.caller([], Right.READ)


def test_a_bucket_refills_with_time() -> None:
    now = [0.0]
    buckets = TokenBuckets(2, lambda: now[0])
    assert [buckets.take("a") for _ in range(2)] == [0.0, 0.0]
    assert buckets.take("a") == pytest.approx(0.5)
    assert buckets.take("b") == 0.0
    now[0] += 0.5
    assert buckets.take("a") == 0.0
    assert TokenBuckets(0).take("a") == 0.0


def test_who_asks_too_often_is_told_when_to_come_back() -> None:
    limited = from_environment({"FEEDLOOP_RATE_LIMIT_PER_S": "1"})
    access = Access(limited, lambda: 0.0)
    headers = [(b"x-api-key", b"dev-read")]
    access.admit(headers, Right.READ)
    with pytest.raises(TooManyRequestsException) as caught:
        access.admit(headers, Right.READ)
    assert caught.value.headers == {"Retry-After": "1"}


@pytest.mark.parametrize("command", ["collect", "serve"])
def test_a_port_in_use_is_one_sentence(tmp_path: Path, command: str) -> None:
    settings = from_environment({}, home=str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "feedloop", command, "--port", str(port)],
            env=to_environment(settings),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(f"feedloop: Port {port} of 127.0.0.1 is in use")
