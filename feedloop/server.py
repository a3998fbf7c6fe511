"""Starting and stopping an HTTP server, in this process or in a thread of it."""

from __future__ import annotations

import errno
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
import uvicorn
from litestar.types import ASGIApp

from feedloop.errors import PortInUse, SettingsError, StepFailed

GRACE_S = 10
"""How long a stopping server waits for the requests it is answering."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            try:
                yield
            finally:
                # Uvicorn raises what it caught once more after its shutdown,
                # which would end the process before the caller's clean-up.
                self._captured_signals.clear()


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket, so that a taken address is known before anything
    else is started."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise SettingsError(
            f"{host!r} is not an address of this machine ({error.strerror}); "
            "choose another host."
        ) from error
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(2048)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"Port {port} of {host} is in use; stop what listens there or "
                "choose another port (0 takes a free one)."
            ) from error
        raise SettingsError(
            f"Can't listen on {host} port {port} ({error.strerror}); choose "
            "another host or port."
        ) from error
    return bound


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _server(app: ASGIApp, started: Callable[[], None]) -> _Server:
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_S,
    )
    return _Server(config, started)


def serve(app: ASGIApp, host: str, port: int) -> None:
    """Serve an ASGI app until SIGTERM or SIGINT, then return.

    Prints ``listening on http://host:port`` once it accepts (port 0: the one
    that the system chose). Requests that are being answered are finished.
    Raises ``PortInUse``, ``SettingsError`` for an address that can't be bound
    and ``StepFailed`` where the app's own start fails.
    """
    bound = _bind(host, port)
    with bound:
        server = _server(app, lambda: click.echo(f"listening on {_url(bound)}"))
        # What is there by now stays: a collection for each few requests need not
        # look through all of it, which took a fifth of the time.
        gc.collect()
        gc.freeze()
        try:
            server.run(sockets=[bound])
        except SystemExit as error:
            raise StepFailed(
                "The server did not start; the lines above say why."
            ) from error


@contextmanager
def running(app: ASGIApp, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """The URL of ``app``, served by a thread of this process.

    Raises as ``serve`` does.
    """
    bound = _bind(host, port)
    with bound:
        ready = threading.Event()
        server = _server(app, ready.set)

        def run() -> None:
            try:
                server.run(sockets=[bound])
            except SystemExit:
                server.should_exit = True
            finally:
                ready.set()

        thread = threading.Thread(target=run, name="http-server", daemon=True)
        thread.start()
        ready.wait()
        if not server.started:
            thread.join()
            raise StepFailed("The server did not start; the lines above say why.")
        try:
            yield _url(bound)
        finally:
            server.should_exit = True
            thread.join()
