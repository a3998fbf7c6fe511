"""A way to Redis that ends in the middle of a sentence."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from urllib.parse import unquote


class StallingProxy:
    """Passes ``limit`` bytes on to the unix socket of ``redis_url``, then none.

    ``stalled`` is set from then on. A context manager.
    """

    def __init__(self, redis_url: str, limit: int) -> None:
        self._target = unquote(redis_url.removeprefix("unix://"))
        self._left = limit
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self.stalled = threading.Event()
        host, port = self._listener.getsockname()
        self.url = f"redis://{host}:{port}/0"

    def _accept(self) -> None:
        with suppress(OSError):  # closed: the test is over
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                self._sockets += [client, server]
                for copy in (self._forward, self._back):
                    threading.Thread(
                        target=copy, args=(client, server), daemon=True
                    ).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while not self.stalled.is_set():
                data = client.recv(min(65_536, self._left))
                if not data:
                    return
                server.sendall(data)
                self._left -= len(data)
                if not self._left:
                    self.stalled.set()

    @staticmethod
    def _back(client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):  # the client was killed
            while data := server.recv(65_536):
                client.sendall(data)

    def __enter__(self) -> StallingProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()
