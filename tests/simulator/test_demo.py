"""The demo as a newcomer runs it: it ends well, twice, and after a kill."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

DEMO = [sys.executable, "-m", "feedloop", "demo"]
SMALL = ["--days", "2", "--people", "60"]
GONE_S = 60.0


def processes_of(home: Path) -> dict[int, str]:
    """Processes that have something to do with ``home``: by their arguments,
    their environment or their working folder."""
    found = {}
    wanted = str(home).encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            told = (entry / "cmdline").read_bytes()
            told += (entry / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if wanted in told:
            found[int(entry.name)] = told[:200].decode(errors="replace")
    return found


def wait_until_gone(home: Path) -> None:
    deadline = time.monotonic() + GONE_S
    while left := processes_of(home):
        assert time.monotonic() < deadline, left
        for process in left:
            with suppress(ProcessLookupError):
                wait_for_end(process)


def wait_for_end(process: int) -> None:
    ended = os.pidfd_open(process)
    try:
        select.select([ended], [], [], GONE_S)
    finally:
        os.close(ended)


@contextmanager
def demo(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*DEMO, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Read what the demo says up to a line with ``text``."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"The demo never said {text!r}.")


def try_out(process: subprocess.Popen[str], path: str) -> int:
    """Run the first of the proposed curl lines with ``path`` in it, as its
    status."""
    assert process.stdout is not None
    for line in process.stdout:
        words = shlex.split(line)
        if words[:1] == ["curl"] and path in line:
            url = next(word for word in words if word.startswith("http"))
            name, _, key = words[words.index("-H") + 1].partition(": ")
            return httpx.get(url, headers={name: key}).status_code
    raise AssertionError(f"The demo proposed no curl line with {path!r}.")


def kill_the_loader(home: Path, times: int) -> None:
    """SIGKILL, the first time once events were loaded (by it, or by the demo
    that catches up before a night), as a person does who read which process
    it is."""
    events = home / "feedloop" / "iceberg" / "feedloop_raw" / "events" / "data"
    deadline = time.monotonic() + GONE_S
    killed: set[int] = set()
    while len(killed) < times:
        assert time.monotonic() < deadline, processes_of(home)
        has_loaded = events.is_dir()
        for process, told in processes_of(home).items():
            is_loader = told.startswith(f"{sys.executable}\x00-m\x00feedloop\x00load")
            if has_loaded and is_loader and process not in killed:
                os.kill(process, signal.SIGKILL)
                killed.add(process)
        time.sleep(0.05)


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"
)
def test_it_ends_well_after_a_kill_and_twice(tmp_path: Path) -> None:
    home = tmp_path / ".feedloop-demo"

    # Killed while its servers run: nothing may survive, nothing may be in the way.
    with demo(tmp_path, *SMALL) as process:
        wait_for(process, "The first night")
        assert len(processes_of(home)) >= 3
        process.kill()
    wait_until_gone(home)

    # Told to stop: the same, and it says so.
    with demo(tmp_path, *SMALL) as process:
        wait_for(process, "The collector listens on")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
        assert process.returncode == 130, errors
        assert errors.strip().endswith("Stopped.")
    assert processes_of(home) == {}

    # From start to end, with the loader killed and the APIs left up, until
    # Ctrl-C ends it well.
    with demo(tmp_path, *SMALL, "--json", "--keep") as process:
        kill_the_loader(home, 2)
        assert process.stdout is not None
        output = process.stdout.readline()
        assert output, process.communicate()[1]
        wait_for(process, "The APIs stay up")
        assert try_out(process, "/recommendations/") == 200
        assert len(processes_of(home)) >= 3
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert processes_of(home) == {}
    report = json.loads(output)
    assert len(report["days"]) == 2
    assert len(report["nights"]) == 3
    assert all(check["expected"] == check["found"] for check in report["checks"])
    assert report["loader_starts"] >= 3
    tally = report["tally"]
    assert tally["acknowledged"] == tally["sent"] > 1000
    assert tally["sent_again"] > 0
    assert tally["rubbish_refused"] == tally["rubbish_sent"] > 0
    assert tally["refused"] == 0
    together = report["together"]
    assert together["without_list"] == 0
    assert (
        together["arms"]["oracle"]["ctr"]["value"]
        > (together["arms"]["random"]["ctr"]["value"])
    )
