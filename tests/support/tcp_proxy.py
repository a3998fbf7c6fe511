"""A way to a server that a test cuts, stalls, or robs of its replies."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

BLOCK_BYTES = 65_536


class TcpProxy:
    """Forwards its own ``port`` to ``target`` on 127.0.0.1. A context manager."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._replying = True

    def cut(self) -> None:
        """End every connection in whatever sentence it is."""
        with self._lock:
            ends = list(self._open)
        for end in ends:
            with suppress(OSError):  # it ended by itself
                end.shutdown(socket.SHUT_RDWR)

    def stall(self) -> None:
        """Keep connections open and let nothing through, until ``flow``."""
        self._flowing.clear()

    def lose_replies(self) -> None:
        """Let requests through and end a connection with its reply, until ``flow``."""
        self._replying = False

    def flow(self) -> None:
        self._replying = True
        self._flowing.set()

    def _accept(self) -> None:
        with suppress(OSError):  # closed: the test is over
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target), 5)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                with self._lock:
                    self._open |= {client, server}
                for one, other, is_reply in (
                    (client, server, False),
                    (server, client, True),
                ):
                    threading.Thread(
                        target=self._pump, args=(one, other, is_reply), daemon=True
                    ).start()

    def _pump(self, one: socket.socket, other: socket.socket, is_reply: bool) -> None:
        with suppress(OSError):  # either end is gone
            while data := one.recv(BLOCK_BYTES):
                self._flowing.wait()
                if is_reply and not self._replying:
                    break
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            both_done = one not in self._open
            self._open -= {one, other}
        if both_done:
            one.close()
            other.close()

    def __enter__(self) -> TcpProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.flow()
        self._listener.close()
        self.cut()
