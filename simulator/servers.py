"""Feedloop's servers and its loader as child processes that end with their parent."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from feedloop.errors import StepFailed
from feedloop.processes import ending_with_parent
from feedloop.settings import PREFIX, Settings, to_environment

START_S = 60.0
STOP_S = 30.0
BACK_S = 0.2
LOAD_EVERY = "3s"
ANNOUNCEMENT = "listening on "


class Running(NamedTuple):
    """URLs of the servers, and the loader."""

    collector: str
    server: str
    loader: Kept


def _start(
    settings: Settings, arguments: Sequence[str], output: IO[bytes], lock: int
) -> subprocess.Popen[bytes]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(PREFIX)
    }
    return subprocess.Popen(
        ending_with_parent([sys.executable, "-m", "feedloop", *arguments]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=output,
        env=environment | to_environment(settings),
        cwd=settings.project_dir,
        pass_fds=(lock,),
        # Ctrl-C is for this process, which then ends the child.
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and wait until it has ended; it finishes what it is at."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


class Kept:
    """A command that is started again whenever it ends, until ``stop``."""

    def __init__(
        self, settings: Settings, arguments: Sequence[str], log: Path, lock: int
    ) -> None:
        self.starts = 0
        self._stopping = threading.Event()
        self._begin = partial(self._begun, settings, arguments, log, lock)
        self._process = self._begin()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        _end(self._process)

    def _begun(
        self, settings: Settings, arguments: Sequence[str], log: Path, lock: int
    ) -> subprocess.Popen[bytes]:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.starts += 1
        with log.open("ab") as output:
            return _start(settings, arguments, output, lock)

    def _keep(self) -> None:
        while not self._stopping.wait(BACK_S):
            if self._process.poll() is not None:
                _end(self._process)
                self._process = self._begin()


class Server:
    """One server process: started at once, ready when ``url`` returns."""

    def __init__(self, settings: Settings, command: str, log: Path, lock: int) -> None:
        self._command = command
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            arguments = [command, "--port", "0"]
            self._process = _start(settings, arguments, output, lock)

    def url(self) -> str:
        """Where it listens, once it does; ``StepFailed`` where it ends or
        says nothing."""
        said = self._process.stdout
        if said is None:
            raise StepFailed(f"`feedloop {self._command}` has no output to read.")
        text = b""
        deadline = time.monotonic() + START_S
        os.set_blocking(said.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(said, selectors.EVENT_READ)
            while b"\n" not in text and time.monotonic() < deadline:
                if selector.select(deadline - time.monotonic()):
                    part = os.read(said.fileno(), 4096)
                    text += part
                    if not part:
                        break
        line = text.decode(errors="replace").partition("\n")[0]
        if not line.startswith(ANNOUNCEMENT):
            raise StepFailed(
                f"`feedloop {self._command}` did not start: {self._last_words()} "
                f"(all of it is in {self._log})."
            )
        return line.removeprefix(ANNOUNCEMENT).strip()

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def stop(self) -> None:
        _end(self._process)


@contextmanager
def running(settings: Settings, log_dir: Path, lock: int) -> Iterator[Running]:
    """A collector and a serving API of ``settings`` on free ports, and a loader.

    They start at the same time and end with the context, or with this process
    however that ends. ``lock`` is inherited by them.
    """
    with ExitStack() as stack:
        servers = []
        for command in ("collect", "serve"):
            log = log_dir / f"{command}.log"
            servers.append(Server(settings, command, log, lock))
            stack.callback(servers[-1].stop)
        arguments = ["load", "--every", LOAD_EVERY]
        loader = Kept(settings, arguments, log_dir / "load.log", lock)
        stack.callback(loader.stop)
        collector, server = (one.url() for one in servers)
        yield Running(collector, server, loader)
