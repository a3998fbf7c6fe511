"""Feedloop's processes as they run in production, and their supervisor.

Each is what ``feedloop …`` does in a shell. The supervisor brings back whatever
ended, as systemd or Kubernetes would.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from feedloop.clock import SystemClock
from feedloop.contracts.tables import RAW_TABLES
from feedloop.errors import Fenced, MaintenanceFailed, TablesUnavailable
from feedloop.settings import from_environment
from loaders.expiry import expire
from loaders.iceberg import open_catalog, open_table
from loaders.orphans import remove_orphans
from tests.support import children
from tests.support.children import Effect, When

EXPIRE_EVERY_S = 0.2
ORPHAN_AGE_S = 90
"""Longer than any process is frozen here and any commit takes."""
SMALL_DISK_BYTES = 600
READER = b"loaders.reader_process"
BACK_S = 0.05
STOP_S = 60.0


@dataclass(frozen=True)
class Orders:
    """What the next commit to a table is to meet: files in a folder, each of
    them for one process only, whichever commits first."""

    folder: Path

    def give(self, table: str, when: When, effect: Effect, name: str) -> None:
        order = f"{table}~{when.name}~{effect.name}~{name}~{uuid.uuid4().hex}"
        (self.folder / order).touch()

    def __call__(self, when: When, table: str) -> None:
        for path in sorted(self.folder.glob(f"{table}~{when.name}~*")):
            try:
                path.rename(self.folder / "done" / path.name)
            except FileNotFoundError:
                continue  # another process took it
            children.spring(Effect[path.name.split("~")[2]])

    def met(self) -> Counter[str]:
        """How often each was met, by name."""
        done = (self.folder / "done").iterdir()
        return Counter(path.name.split("~")[3] for path in done)


def expire_for_ever(environment: Mapping[str, str], output: Path) -> None:
    """Keep no snapshot but the heads, and no file that is nobody's."""
    children.redirect(output)
    settings = from_environment(environment)
    catalog = open_catalog(settings)
    age = timedelta(seconds=ORPHAN_AGE_S)
    while True:
        now = SystemClock().now()
        for name in RAW_TABLES:
            opened = partial(open_table, catalog, settings, name)
            try:
                gone = expire(opened, timedelta(0), 1, now)
                removed = remove_orphans(opened, age, age, now)
                print("expired", gone, "removed", removed.files, flush=True)
            except (Fenced, MaintenanceFailed, TablesUnavailable) as error:
                print("left out:", error, flush=True)
        time.sleep(EXPIRE_EVERY_S)


@dataclass
class Service:
    """One process that is always brought back."""

    name: str
    begin: Callable[[], BaseProcess]
    output: Path
    process: BaseProcess | None = None
    frozen: bool = False
    disturbed: bool = False
    """It was killed or choked: how it then ends is not its own doing."""
    starts: int = 0

    @property
    def pid(self) -> int | None:
        process = self.process
        return process.pid if process is not None and process.is_alive() else None

    def readers(self) -> list[int]:
        """The processes that read for it, where it is a loader."""
        found: list[int] = []
        with suppress(FileNotFoundError, ProcessLookupError):  # it ends meanwhile
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        return [pid for pid in found if READER in _command(pid)]

    def send(self, number: int) -> bool:
        pid = self.pid
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False

    def kill(self) -> bool:
        self.disturbed = self.send(signal.SIGKILL)
        return self.disturbed

    def choke(self, limit: int) -> bool:
        """Let it write no file longer than ``limit``, as on a full disk."""
        pid = self.pid
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, hard))
            self.disturbed = True
            return True
        return False


@dataclass
class Supervisor:
    """Brings services back, and remembers how they ended."""

    services: dict[str, Service] = field(default_factory=dict)
    own_ends: Counter[str] = field(default_factory=Counter)
    """Ends that nobody caused directly, by what was said last."""

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def add(
        self,
        name: str,
        output: Path,
        target: Callable[..., None],
        *arguments: Any,
    ) -> None:
        begin = partial(children.start, target, *arguments)
        self.services[name] = Service(name, begin, output)

    def start(self) -> None:
        for service in self.services.values():
            self._begin(service)
        self._thread.start()

    def _begin(self, service: Service) -> None:
        service.process = service.begin()
        service.starts += 1

    def _watch(self) -> None:
        while not self._stopping.wait(BACK_S):
            for service in self.services.values():
                process = service.process
                if process is None or process.is_alive():
                    continue
                self._note(service, process.exitcode)
                self._begin(service)

    def _note(self, service: Service, exitcode: int | None) -> None:
        if not (service.disturbed or exitcode == -signal.SIGKILL):
            role = service.name.rstrip("0123456789 ")
            self.own_ends[f"{role}: {last_words(service.output)}"] += 1
        service.disturbed = False

    def stop(self) -> dict[str, int | None]:
        """SIGTERM to all; the exit code of each."""
        self._stopping.set()
        self._thread.join()
        for service in self.services.values():
            service.send(signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        codes: dict[str, int | None] = {}
        for name, service in self.services.items():
            if service.process is not None:
                service.process.join(max(0.1, deadline - time.monotonic()))
                codes[name] = service.process.exitcode
        self.kill_all()
        return codes

    def kill_all(self) -> None:
        self._stopping.set()
        for service in self.services.values():
            if service.process is not None and service.process.is_alive():
                service.process.kill()
                service.process.join()


def _command(pid: int) -> list[bytes]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


def last_words(output: Path) -> str:
    lines = output.read_text(errors="replace").strip().splitlines() if output else []
    return lines[-1][:160] if lines else "nothing"


def said(output: Path, what: str) -> int:
    """The sum of the numbers that follow the word ``what`` in ``output``."""
    words = output.read_text(errors="replace").split()
    pairs = pairwise(words)
    return sum(int(number) for word, number in pairs if word == what)
