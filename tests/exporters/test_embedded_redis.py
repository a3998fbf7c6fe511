"""The embedded server: one for a namespace, and none when nobody needs it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import pytest
import redis

from exporters.embedded_redis import SOCKET_PATH_BYTES, embedded_redis
from feedloop.errors import StoreUnavailable
from feedloop.settings import Settings, from_environment, to_environment

HOLDER = """
import sys
from exporters.embedded_redis import embedded_redis
from feedloop.settings import from_environment

with embedded_redis(from_environment()) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    return from_environment({}, home=str(tmp_path / "a home"), namespace="t1")


def client_of(url: str) -> redis.Redis:
    return redis.Redis.from_url(url)


def process_of(url: str) -> int:
    with client_of(url) as client:
        return int(client.info("server")["process_id"])


def watch(url: str) -> socket.socket:
    """A connection whose end tells that the server has ended."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(unquote(url.removeprefix("unix://")))
    connection.settimeout(30)
    return connection


def wait_for_end(connection: socket.socket) -> None:
    with connection:
        try:
            assert connection.recv(1) == b""
        except ConnectionResetError:
            return


def hold(settings: Settings) -> tuple[subprocess.Popen[str], str]:
    """Another process that has the embedded server open, and its URL."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env=os.environ | to_environment(settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def read_until_back(url: str, key: str) -> object:
    """The value once a server answers again."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with client_of(url) as client:
                return client.get(key)
        except redis.exceptions.ConnectionError:
            assert time.monotonic() < deadline


def test_it_keeps_its_data_and_ends_with_the_context(own: Settings) -> None:
    with embedded_redis(own) as url:
        with client_of(url) as client:
            client.set("a", "1", ex=1000)
            assert client.config_get("port") == {"port": "0"}
        ending = watch(url)
    wait_for_end(ending)
    with embedded_redis(own) as url, client_of(url) as client:
        assert client.get("a") == b"1"


def test_it_ends_with_an_exception_too(own: Settings) -> None:
    with pytest.raises(KeyError), embedded_redis(own) as url:
        ending = watch(url)
        raise KeyError
    wait_for_end(ending)


def test_a_live_server_is_shared_and_left_running(own: Settings) -> None:
    with embedded_redis(own) as first:
        with embedded_redis(own) as second:
            assert second == first
            server = process_of(second)
        assert process_of(first) == server


def test_namespaces_have_servers_of_their_own(own: Settings) -> None:
    other = from_environment({}, home=own.home, namespace="t2")
    with embedded_redis(own) as first, embedded_redis(other) as second:
        assert process_of(first) != process_of(second)


def test_it_dies_with_its_process(own: Settings) -> None:
    process, url = hold(own)
    with client_of(url) as client:
        client.set("a", "1", ex=1000)
    ending = watch(url)
    process.kill()
    process.communicate()
    wait_for_end(ending)
    with embedded_redis(own) as url, client_of(url) as client:
        assert client.get("a") == b"1"


def test_who_still_needs_it_starts_it_again(own: Settings) -> None:
    process, url = hold(own)
    with embedded_redis(own) as shared:
        assert shared == url
        with client_of(shared) as client:
            client.set("a", "1", ex=1000)
        ending = watch(shared)
        process.communicate("")  # the owner leaves
        wait_for_end(ending)
        assert read_until_back(shared, "a") == b"1"
        ending = watch(shared)
    wait_for_end(ending)


def test_a_server_that_was_killed_is_started_again(own: Settings) -> None:
    with embedded_redis(own) as url:
        with client_of(url) as client:
            client.set("a", "1", ex=1000)
            client.save()
        ending = watch(url)
        os.kill(process_of(url), signal.SIGKILL)
        wait_for_end(ending)
        assert read_until_back(url, "a") == b"1"


def test_a_stale_socket_is_no_obstacle(own: Settings) -> None:
    own.redis_dir.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(own.redis_dir / "redis.sock"))
    with embedded_redis(own) as url, client_of(url) as client:
        assert client.ping()


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    deep = from_environment({}, home=str(tmp_path / ("x" * 120)), namespace="t1")
    with embedded_redis(deep) as url:
        path = Path(unquote(url.removeprefix("unix://")))
        assert (deep.redis_dir / "socket").read_text() == str(path)
        assert len(str(path)) <= SOCKET_PATH_BYTES
        with client_of(url) as client, embedded_redis(deep) as again:
            assert again == url
            assert client.config_get("dir") == {"dir": str(deep.redis_dir)}
    assert not path.parent.exists()


def test_a_copied_home_does_not_use_the_originals_server(tmp_path: Path) -> None:
    first, second = (
        from_environment({}, home=str(tmp_path / name / ("x" * 120)), namespace="t1")
        for name in ("one", "two")
    )
    with embedded_redis(first) as url:
        second.redis_dir.mkdir(parents=True)
        record = (first.redis_dir / "socket").read_text()
        (second.redis_dir / "socket").write_text(record)
        with embedded_redis(second) as other:
            assert process_of(other) != process_of(url)


def test_a_home_that_is_a_file_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    settings = from_environment({}, home=str(tmp_path / "home"), namespace="t1")
    with (
        pytest.raises(StoreUnavailable, match="FEEDLOOP_HOME"),
        embedded_redis(settings),
    ):
        pass


def test_a_server_that_does_not_start_says_why(own: Settings) -> None:
    own.redis_dir.mkdir(parents=True)
    (own.redis_dir / "dump.rdb").write_bytes(b"rubbish")
    with pytest.raises(StoreUnavailable, match=r"redis\.log"), embedded_redis(own):
        pass
