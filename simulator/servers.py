"""Feedloop's servers as child processes that end with their parent."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from feedloop.errors import StepFailed
from feedloop.processes import ending_with_parent
from feedloop.settings import PREFIX, Settings, to_environment

START_S = 60.0
STOP_S = 30.0
ANNOUNCEMENT = "listening on "


class Server:
    """One server process: started at once, ready when ``url`` returns."""

    def __init__(self, settings: Settings, command: str, log: Path, lock: int) -> None:
        self._command = command
        self._log = log
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(PREFIX)
        }
        log.parent.mkdir(parents=True, exist_ok=True)
        arguments = [sys.executable, "-m", "feedloop", command, "--port", "0"]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ending_with_parent(arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=environment | to_environment(settings),
                cwd=settings.project_dir,
                pass_fds=(lock,),
                # Ctrl-C is for this process, which then ends the server.
                start_new_session=True,
            )

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
        """End it and wait until it has ended; it finishes what it answers."""
        process = self._process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            _close(pipe)


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        pipe.close()


@contextmanager
def running(settings: Settings, log_dir: Path, lock: int) -> Iterator[tuple[str, str]]:
    """The URLs of a collector and a serving API of ``settings`` on free ports.

    Both start at the same time and end with the context, or with this process
    however that ends. ``lock`` is inherited by them.
    """
    servers: list[Server] = []
    try:
        for command in ("collect", "serve"):
            log = log_dir / f"{command}.log"
            servers.append(Server(settings, command, log, lock))
        collector, server = (one.url() for one in servers)
        yield collector, server
    finally:
        for one in reversed(servers):
            one.stop()
