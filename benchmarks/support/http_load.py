"""An HTTP client that costs little, in a process of its own.

``run`` starts it; it takes a ``Load`` as JSON on stdin and writes an
``Outcome`` to stdout.
"""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import sys
import time
from collections import Counter, deque
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import msgspec
import uvloop

from feedloop.errors import StepFailed

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
SETTLE_S = 5.0


class Load(msgspec.Struct):
    """What to send: each line of ``bodies`` is one request's body, over and over.

    ``rate``: requests a second, at random instants (Poisson), each timed from
    the instant when it was due; 0: a connection sends its next one once it has
    its answer.
    """

    url: str
    headers: dict[str, str]
    bodies: str
    connections: int
    seconds: float
    rate: float = 0.0
    method: str = "POST"


class Outcome(msgspec.Struct):
    """``statuses``: answers by status. Times in ms, of all answers."""

    statuses: dict[str, int]
    wall_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float


def run(load: Load) -> Outcome:
    """Send ``load``. Raises ``StepFailed`` where the client fails."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.support.http_load"],
        input=msgspec.json.encode(load),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise StepFailed(f"The load generator failed: {done.stderr.decode()[-3000:]}")
    return msgspec.json.decode(done.stdout, type=Outcome)


class _Client:
    """Which request is due, who is free to send it, and how long each took."""

    def __init__(self, load: Load) -> None:
        parts = urlsplit(load.url)
        self.address = (parts.hostname or "", parts.port or 80)
        head = f"{load.method} {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in load.headers.items())
        self._requests = [
            f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
            for body in Path(load.bodies).read_bytes().splitlines()
        ]
        self._next = 0
        self._load = load
        self._free: deque[_Connection] = deque()
        self._due: deque[float] = deque()
        self.times: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.running = True

    def request(self) -> bytes:
        self._next = (self._next + 1) % len(self._requests)
        return self._requests[self._next]

    def is_due(self, at: float) -> None:
        if self._free:
            self._free.popleft().send(at)
        else:
            self._due.append(at)

    def is_free(self, connection: _Connection) -> None:
        if not self.running:
            return
        if not self._load.rate:
            connection.send(time.perf_counter())
        elif self._due:
            connection.send(self._due.popleft())
        else:
            self._free.append(connection)


class _Connection(asyncio.Protocol):
    def __init__(self, client: _Client) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._since = 0.0
        self._found = b""
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, since: float) -> None:
        assert self._transport is not None
        self.busy = True
        self._since = since
        self._transport.write(self._client.request())

    def data_received(self, data: bytes) -> None:
        self._found += data
        head = self._found.find(b"\r\n\r\n")
        if head < 0:
            return
        length = LENGTH.search(self._found, 0, head)
        if length is None:
            raise ValueError(f"no Content-Length in {self._found[:300]!r}")
        if len(self._found) < head + 4 + int(length[1]):
            return
        client = self._client
        client.times.append(time.perf_counter() - self._since)
        client.statuses[self._found[9:12].decode()] += 1
        self._found = b""
        self.busy = False
        client.is_free(self)


async def _send(load: Load) -> Outcome:
    loop = asyncio.get_running_loop()
    client = _Client(load)
    connections: list[_Connection] = []
    for _ in range(load.connections):
        _, connection = await loop.create_connection(
            lambda: _Connection(client), *client.address
        )
        connections.append(connection)
    begun = time.perf_counter()
    for connection in connections:
        client.is_free(connection)
    if load.rate:
        await _keep_time(client, load, begun)
    else:
        await asyncio.sleep(load.seconds)
    wall = time.perf_counter() - begun
    answered = len(client.times)
    client.running = False
    until = time.perf_counter() + SETTLE_S
    while any(one.busy for one in connections) and time.perf_counter() < until:
        await asyncio.sleep(0.01)
    times = sorted(client.times)
    if not times:
        raise ValueError("nothing was answered")
    return Outcome(
        dict(client.statuses),
        # what was answered after the end was on its way before it
        wall * len(times) / max(1, answered) if load.rate else wall,
        times[len(times) // 2] * 1000,
        times[len(times) * 99 // 100] * 1000,
        times[-1] * 1000,
    )


async def _keep_time(client: _Client, load: Load, begun: float) -> None:
    gaps = random.Random(1)
    at = begun
    while at < begun + load.seconds:
        at += gaps.expovariate(load.rate)
        pause = at - time.perf_counter()
        if pause > 0.001:
            await asyncio.sleep(pause)
        client.is_due(at)


def main() -> None:
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    outcome = uvloop.run(_send(load))
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
