"""CPU-seconds, memory and medians, of this process and of whole commands."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from feedloop.errors import StepFailed

T = TypeVar("T")
TOLD_BYTES = 3000
SAMPLED_EVERY_S = 0.05


@dataclass
class Usage:
    """What something took. ``cpu_s``: user and system, children that it waited
    for included. ``peak_rss_mb``: of its processes together, 0 where it was a
    part of this one."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_rss_mb: float = 0.0


def _cpu_s() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _tree_rss_mb(pid: int) -> float:
    """Resident memory of a process and of all that it started. Pages that they
    share count for each."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [c for t in tasks for c in (t / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0  # it has ended
    own = pages * resource.getpagesize() / 2**20
    return own + sum(_tree_rss_mb(int(child)) for child in children)


@contextmanager
def _peak_rss(pid: int, usage: Usage) -> Iterator[None]:
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLED_EVERY_S):
            usage.peak_rss_mb = max(usage.peak_rss_mb, _tree_rss_mb(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


@contextmanager
def measured() -> Iterator[Usage]:
    """What the body took, in this process; read it after the body."""
    usage = Usage()
    wall, cpu = time.perf_counter(), _cpu_s()
    try:
        yield usage
    finally:
        usage.wall_s = time.perf_counter() - wall
        usage.cpu_s = _cpu_s() - cpu


def run_command(
    command: Sequence[str | Path], environ: Mapping[str, str] | None = None
) -> tuple[Usage, str]:
    """Run a command to its end; what it took, and what it printed.

    Raises ``StepFailed`` with the end of its output where it fails.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            env=None if environ is None else dict(environ),
        )
        found = Usage()
        with _peak_rss(process.pid, found):
            # wait4 tells what this child took, and no other one
            _, status, usage = os.wait4(process.pid, 0)
            found.wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read().decode(errors="replace")
        if process.returncode:
            errors.seek(0)
            told = errors.read().decode(errors="replace") + text
            raise StepFailed(
                f"{' '.join(map(str, command))} exited with {process.returncode}: "
                f"{told[-TOLD_BYTES:]}"
            )
    found.cpu_s = usage.ru_utime + usage.ru_stime
    found.peak_rss_mb = max(found.peak_rss_mb, usage.ru_maxrss / 1024)
    return found, text


def in_turn(sides: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Every side once a round, so that what disturbs the machine meanwhile
    disturbs all of them."""
    results: dict[str, list[T]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            results[name].append(side())
    return results


def median_of(usages: Sequence[Usage]) -> Usage:
    """The median of each measure by itself."""
    return Usage(
        statistics.median(usage.wall_s for usage in usages),
        statistics.median(usage.cpu_s for usage in usages),
        statistics.median(usage.peak_rss_mb for usage in usages),
    )
