"""Events into the log over HTTP, beside the bare client of the same log."""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec

from benchmarks.support import http_load
from benchmarks.support.measure import in_turn
from benchmarks.support.report import Figure, benchmark
from feedloop.errors import StepFailed
from feedloop.processes import ending_with_parent
from feedloop.settings import Settings, from_environment, to_environment
from tests.support.kafka_broker import KafkaBroker

PARTITIONS = 8
USERS = 20_000
SIZES = (1, 20, 100)
SHARE = 0.7  # of what it can do, for times
LONE_PER_S = 20  # so few that none meets another
CONNECTIONS = 32
HUNG_CONNECTIONS = 200
BACK_S = 60.0
TICKS_S = 1 / os.sysconf("SC_CLK_TCK")


class _Size(NamedTuple):
    """How long to send, and the producer's events."""

    events: int
    seconds: float
    producer_events: int
    rounds: int


FULL = _Size(events=20_000, seconds=5.0, producer_events=60_000, rounds=3)
QUICK = _Size(events=4_000, seconds=1.0, producer_events=10_000, rounds=1)


def events(count: int) -> list[dict[str, Any]]:
    """Events of about 500 bytes."""
    rng = random.Random(1)
    now = datetime.now(UTC).isoformat()
    return [
        {
            "event_id": f"{rng.getrandbits(128):032x}",
            "user_id": f"usr_{rng.randrange(USERS):010x}",
            "item_id": f"article_{rng.randrange(10_000)}",
            "event_type": "click",
            "occurred_at": now,
            "context": {
                "session_id": f"{rng.getrandbits(128):032x}",
                "device": rng.choice(("android", "ios", "web")),
                "surface": "homepage",
                "page_position": rng.randrange(20),
                "request_id": f"{rng.getrandbits(256):064x}",
                "model_version": "a1b2c3d4e5f6",
                "dwell_time_ms": rng.randrange(60_000),
                "referrer": f"https://example.org/{rng.getrandbits(200):050x}",
            },
        }
        for _ in range(count)
    ]


class _Server(NamedTuple):
    """A collector in a process of its own."""

    url: str
    pid: int

    def cpu_s(self) -> float:
        """User and system seconds of all its threads since it started."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICKS_S


@contextmanager
def _collector(settings: Settings) -> Iterator[_Server]:
    command = [sys.executable, "-m", "feedloop", "collect", "--port", "0"]
    with subprocess.Popen(
        ending_with_parent(command),
        env=os.environ | to_environment(settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise StepFailed("The collector did not start; the lines above say why.")
        try:
            yield _Server(line.split()[-1], process.pid)
        finally:
            process.send_signal(signal.SIGTERM)


class _Rate(NamedTuple):
    events_per_cpu_s: float
    requests_per_s: float


class _Side:
    """One collector under one batch size."""

    def __init__(self, server: _Server, folder: Path, batch: int, size: _Size) -> None:
        self._server = server
        self._batch = batch
        self._seconds = size.seconds
        self._bodies = folder / f"bodies-{batch}.jsonl"

    def rate(self) -> _Rate:
        """As fast as it can."""
        before = self._server.cpu_s()
        outcome = self._run(0.0)
        cpu = self._server.cpu_s() - before
        requests = sum(outcome.statuses.values())
        return _Rate(requests * self._batch / cpu, requests / outcome.wall_s)

    def p99_ms(self, requests_per_s: float) -> float:
        return self._run(requests_per_s).p99_ms

    def _run(self, rate: float) -> http_load.Outcome:
        return _send(
            self._server, self._bodies, CONNECTIONS, self._seconds, "202", rate
        )


def _send(
    server: _Server,
    bodies: Path,
    connections: int,
    seconds: float,
    status: str,
    rate: float = 0.0,
) -> http_load.Outcome:
    """Raises ``StepFailed`` where any answer is not ``status``."""
    outcome = http_load.run(
        http_load.Load(
            url=f"{server.url}/events",
            headers={"X-API-Key": "dev-collect"},
            bodies=str(bodies),
            connections=connections,
            seconds=seconds,
            rate=rate,
        )
    )
    if set(outcome.statuses) != {status}:
        raise StepFailed(f"The collector answered {outcome.statuses}, not {status}.")
    return outcome


def _measure_hanging(
    settings: Settings, broker: KafkaBroker, bodies: Path
) -> list[Figure]:
    """How long many clients wait for their 503 while the broker hangs, and one
    for its 202 once it goes on."""
    with _collector(settings) as server:
        _send(server, bodies, CONNECTIONS, 1.0, "202")
        broker.pause()
        try:
            hung = _send(server, bodies, HUNG_CONNECTIONS, 2.5, "503")
        finally:
            broker.resume()
        begun = time.perf_counter()
        event = bodies.read_bytes().partition(b"\n")[0]
        while time.perf_counter() - begun < BACK_S:
            answer = httpx.post(
                f"{server.url}/events",
                content=event,
                headers={"X-API-Key": "dev-collect"},
            )
            if answer.status_code == 202:
                break
        else:
            raise StepFailed(f"The collector was not back within {BACK_S} s.")
        back = time.perf_counter() - begun
    return [
        Figure(
            "hung_503_max_s",
            hung.max_ms / 1000,
            f"slowest 503 of {HUNG_CONNECTIONS} clients while the broker hangs",
            "≤ 2",
        ),
        Figure("back_202_s", back, "until the next 202 once the broker goes on"),
    ]


def _write_bodies(folder: Path, sent: Sequence[dict[str, Any]]) -> None:
    for batch in SIZES:
        groups = [sent[at : at + batch] for at in range(0, len(sent), batch)]
        lines = (msgspec.json.encode(g if batch > 1 else g[0]) for g in groups)
        (folder / f"bodies-{batch}.jsonl").write_bytes(b"\n".join(lines))


def _measure_log(
    settings: Settings, folder: Path, size: _Size, prefix: str
) -> tuple[list[Figure], float]:
    """Figures of a collector on the log of ``settings``, and its events a
    CPU-second at batches of 100."""
    figures: list[Figure] = []
    rate_100 = 0.0
    with _collector(settings) as server:
        sides = {n: _Side(server, folder, n, size) for n in SIZES}
        for side in sides.values():
            side.rate()  # warm
        rates = in_turn({str(n): side.rate for n, side in sides.items()}, size.rounds)
        for n, side in sides.items():
            found = rates[str(n)]
            per_core = statistics.median(rate.events_per_cpu_s for rate in found)
            saturated = statistics.median(rate.requests_per_s for rate in found)
            p99 = statistics.median(
                side.p99_ms(saturated * SHARE) for _ in range(size.rounds)
            )
            figures += [
                Figure(
                    f"{prefix}events_per_s_per_core_batch_{n}",
                    per_core,
                    f"events accepted a CPU-second, {n} a request",
                ),
                Figure(
                    f"{prefix}p99_ms_batch_{n}",
                    p99,
                    f"slowest hundredth at {SHARE:.0%} of {saturated:,.0f} requests/s",
                    "≤ 20" if n == 1 and not prefix else "",
                ),
            ]
            rate_100 = per_core
        lone = [sides[1].p99_ms(LONE_PER_S) for _ in range(size.rounds)]
        figures.append(
            Figure(
                f"{prefix}p99_ms_lone",
                statistics.median(lone),
                f"slowest hundredth of {LONE_PER_S} single events a second",
            )
        )
    return figures, rate_100


def _producer_rate(bootstrap: str, folder: Path, size: _Size) -> float:
    """Events a CPU-second of the bare producer, in a process of its own."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.support.bare_producer"),
            *(bootstrap, str(PARTITIONS), str(folder / "bodies-1.jsonl")),
            str(size.producer_events),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StepFailed(f"The bare producer failed: {done.stderr[-3000:]}")
    return float(done.stdout)


@benchmark("collect", ("kafka-python", "litestar", "uvicorn", "msgspec", "lz4"))
def main(quick: bool) -> list[Figure]:
    """Events accepted over HTTP, on Kafka and on the file log."""
    size = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_bodies(folder, events(size.events))
        with KafkaBroker(folder / "kafka") as broker:
            on_kafka = from_environment(
                {},
                home=name,
                log="kafka",
                log_partitions=PARTITIONS,
                kafka_bootstrap=broker.bootstrap,
            )
            producer = [
                _producer_rate(broker.bootstrap, folder, size)
                for _ in range(size.rounds)
            ]
            figures, rate_100 = _measure_log(on_kafka, folder, size, "")
            figures += _measure_hanging(on_kafka, broker, folder / "bodies-1.jsonl")
        on_files, _ = _measure_log(
            from_environment({}, home=name, log="file"), folder, size, "file_log_"
        )
    bare = statistics.median(producer)
    return [
        *figures,
        Figure("producer_events_per_s_per_core", bare, "KafkaProducer.send alone"),
        Figure("ratio_to_producer", rate_100 / bare, "batches of 100 over it", "≥ 0.7"),
        *on_files,
    ]


if __name__ == "__main__":
    main()
