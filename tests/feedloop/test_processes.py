"""Child processes end with their parent, whatever they think of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from exporters.embedded_redis import server_executable
from feedloop.processes import ending_with_parent

WAIT_S = 30
FINISHING = """
import signal, sys

def finish(*_):
    print("told", flush=True)
    print(open(sys.argv[1]).read(), flush=True)
    sys.exit(7)

signal.signal(signal.SIGTERM, finish)
print("on", flush=True)
signal.pause()
"""


@contextmanager
def child(command: Sequence[str], within_s: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        ending_with_parent(command, within_s),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def close_pipe(process: subprocess.Popen[bytes]) -> None:
    """As the end of this process would."""
    assert process.stdin is not None
    process.stdin.close()


def first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_what_heeds_sigterm_ends_by_it() -> None:
    with child(["sh", "-c", "echo on; exec tail -f /dev/null"], WAIT_S) as process:
        assert first_line(process) == b"on"
        assert process.poll() is None
        close_pipe(process)
        assert process.wait(WAIT_S) == -signal.SIGTERM


def test_what_is_busy_may_finish(tmp_path: Path) -> None:
    work = tmp_path / "work"
    os.mkfifo(work)
    with child([sys.executable, "-c", FINISHING, str(work)], WAIT_S) as process:
        assert first_line(process) == b"on"
        close_pipe(process)
        assert first_line(process) == b"told"
        work.write_text("done")
        assert first_line(process) == b"done"
        assert process.wait(WAIT_S) == 7


def test_what_ignores_sigterm_is_killed() -> None:
    script = "trap '' TERM; echo on; exec tail -f /dev/null"
    with child(["sh", "-c", script], 1) as process:
        assert first_line(process) == b"on"
        close_pipe(process)
        assert process.wait(WAIT_S) == -signal.SIGKILL


def test_a_redis_that_can_not_save_its_data_is_killed(tmp_path: Path) -> None:
    folder, socket = tmp_path / "data", tmp_path / "redis.sock"
    folder.mkdir()
    command = [server_executable(), "--dir", str(folder), "--save", "60", "1"]
    command += ["--port", "0", "--unixsocket", str(socket)]
    with child(command, 1) as process:
        _await_ping(socket)
        with redis.Redis(unix_socket_path=str(socket)) as client:
            client.set("key", "value")
            shutil.rmtree(folder)
            # it stays, as it says in its log
            process.send_signal(signal.SIGTERM)
            assert client.get("key") == b"value"
            assert process.poll() is None
        close_pipe(process)
        assert process.wait(WAIT_S) == -signal.SIGKILL


def _await_ping(socket: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            with redis.Redis(unix_socket_path=str(socket)) as client:
                client.ping()
                return
        except redis.ConnectionError:
            time.sleep(0.02)
    pytest.fail("redis-server did not start")
