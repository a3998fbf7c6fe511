"""Everything that runs in a torture run, and the way from start to verdict."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pyiceberg.catalog import Catalog

from feedloop.clock import FileClock
from feedloop.contracts.log import EVENTS, ITEMS
from feedloop.errors import LogUnavailable, TablesUnavailable
from feedloop.settings import from_environment, to_environment
from loaders.iceberg import Position, committed, ensure_tables, open_catalog, open_table
from loaders.log import create_topics, open_log
from tests.support import children
from tests.support.kafka_broker import KafkaCluster, free_ports
from tests.support.postgres import Postgres
from tests.support.tcp_proxy import TcpProxy
from tests.torture.client import Phones
from tests.torture.faults import FAULTS, START, Planned, schedule
from tests.torture.ledger import Body, Ledger
from tests.torture.oracle import Verdict, judge
from tests.torture.services import (
    Orders,
    Service,
    Supervisor,
    expire_for_ever,
    said,
)

WATCHED = ("events", "dead_letters", "items")
WATCH_S = 0.5
READY_S = 60.0
DRAIN_S = 300.0
Result = TypeVar("Result")
AT_ONCE = 3
"""Faults that may be under way at the same time."""
LOADER_S, COMPACTOR_S = "0.2s", "1s"


def patiently(work: Callable[[], Result]) -> Result:
    """``work``, again where a server that was killed a moment ago needs a while."""
    deadline = time.monotonic() + DRAIN_S
    while True:
        try:
            return work()
        except (LogUnavailable, TablesUnavailable):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@dataclass(frozen=True)
class Plan:
    """What is to be run. ``rate``: events a second, of all phones together."""

    seed: int
    seconds: float
    nodes: int = 1
    loaders: int = 2
    collectors: int = 2
    rate: float = 150.0
    fault_every_s: float = 1.0


@dataclass
class Outcome:
    """What came of it. ``injected`` counts faults that really happened."""

    plan: Plan
    verdict: Verdict
    seconds: float
    injected: dict[str, int]
    answers: dict[str, int]
    resent: int
    commits: dict[str, int]
    starts: dict[str, int]
    own_ends: dict[str, int]
    exit_codes: dict[str, int | None]
    expired: int
    removed: int
    watched: int
    went_back: list[str]
    errors: list[str]

    def faults(self) -> dict[str, Any]:
        """What must be empty."""
        found: dict[str, Any] = dict(self.verdict.faults())
        if self.went_back:
            found["offsets that went back"] = self.went_back
        if self.errors:
            found["errors of the test itself"] = self.errors
        stuck = {name: code for name, code in self.exit_codes.items() if code is None}
        if stuck:
            found["did not stop"] = stuck
        if self.verdict.stored != self.verdict.acknowledged:
            found["stored and acknowledged"] = [
                self.verdict.stored,
                self.verdict.acknowledged,
            ]
        return found


@dataclass
class World:
    """Kafka with proxies, collectors, loaders, maintenance and phones."""

    plan: Plan
    folder: Path
    say: Callable[[str], None]
    ledger: Ledger = field(default_factory=Ledger)
    injected: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.kafka = KafkaCluster(self.folder / "kafka", self.plan.nodes)
        self.postgres = Postgres()
        (catalog_port,) = free_ports(1)
        self.to_catalog = TcpProxy(catalog_port, self.postgres.port)
        self.clock = FileClock(self.folder / "clock")
        self.clock.set(START)
        base = {
            "home": str(self.folder / "home"),
            "namespace": "torture",
            "clock_file": str(self.clock.path),
            "log": "kafka",
            "log_partitions": 3,
            "load_max_events": 400,
            # a backlog, as it is after a fault, is read by processes apart
            "load_readers": 2,
            "load_readers_from": 150,
            # beside the compactor, one loader or the other compacts too
            "maintain_every_s": 5,
        }
        # the services go through the proxies, the test itself does not
        self.settings = from_environment(
            {},
            kafka_bootstrap=self.kafka.bootstrap,
            catalog_uri=self.postgres.uri,
            **base,
        )
        self.environment = to_environment(
            from_environment(
                {},
                kafka_bootstrap=self.kafka.through_proxies,
                catalog_uri=self.postgres.uri_at(catalog_port),
                **base,
            )
        )
        orders = self.folder / "orders"
        (orders / "done").mkdir(parents=True)
        self.orders = Orders(orders)
        self.supervisor = Supervisor()
        self.broker_lock = threading.Lock()
        self.catalog_lock = threading.Lock()
        ports = free_ports(self.plan.collectors)
        for number, port in enumerate(ports, 1):
            self._add(f"collector {number}", ["collect", "--port", str(port)], None)
        for number in range(1, self.plan.loaders + 1):
            arguments = ["load", "--every", LOADER_S]
            self._add(f"loader {number}", arguments, self.orders)
        arguments = ["maintain", "--every", COMPACTOR_S]
        self._add("compactor", arguments, self.orders)
        self.expirer_log = self.folder / "expirer.log"
        self.supervisor.add(
            "expirer",
            self.expirer_log,
            expire_for_ever,
            self.environment,
            self.expirer_log,
        )
        self.phones = Phones(
            self.ledger,
            [f"http://127.0.0.1:{port}" for port in ports],
            self.plan.seed,
            self.plan.rate,
        )
        self._unsure: list[Body] = []
        self._watch_stop = threading.Event()
        self.watched = 0
        self.went_back: list[str] = []

    def _add(self, name: str, arguments: list[str], react: Orders | None) -> None:
        output = self.folder / f"{name}.log"
        output.touch()
        self.supervisor.add(
            name,
            output,
            children.run_feedloop,
            arguments,
            self.environment,
            output,
            react,
        )

    # --- for the faults ------------------------------------------------------

    def of(self, role: str) -> list[Service]:
        services = self.supervisor.services.values()
        return [one for one in services if one.name.startswith(role)]

    @contextmanager
    def frozen(self, service: Service) -> Iterator[bool]:
        pid = service.pid
        stopped = service.send(signal.SIGSTOP)
        try:
            yield stopped
        finally:
            if service.pid == pid:
                service.send(signal.SIGCONT)

    def unsure(self, bodies: Sequence[Body]) -> None:
        """A client that does not know whether these are stored sends them again
        in the end."""
        self._unsure += bodies

    # --- the run -------------------------------------------------------------

    def run(self) -> Outcome:
        began = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(self.kafka)
            stack.enter_context(self.postgres)
            stack.enter_context(self.to_catalog)
            catalog = open_catalog(self.settings)
            ensure_tables(catalog, self.settings)
            with closing(open_log(self.settings, self.clock)) as log:
                create_topics(log, self.settings)
            stack.callback(self.supervisor.kill_all)
            self.supervisor.start()
            self._await_collectors()
            watcher = threading.Thread(
                target=self._guarded, args=(partial(self._watch, catalog),), daemon=True
            )
            watcher.start()
            self.phones.start()
            self._torture()
            self.say("quiet: what was sent is acknowledged, then loaded")
            self.phones.stop()
            self._send_the_unsure()
            self._drain(catalog)
            self._watch_stop.set()
            watcher.join()
            codes = self.supervisor.stop()
            with closing(open_log(self.settings, self.clock)) as log:
                verdict = patiently(
                    partial(judge, self.ledger, self.settings, catalog, log)
                )
            commits = self._commits(catalog)
        return Outcome(
            plan=self.plan,
            verdict=verdict,
            seconds=time.monotonic() - began,
            injected=dict(self.injected + self.orders.met()),
            answers=dict(self.phones.answers),
            resent=self.phones.resent,
            commits=commits,
            starts={n: one.starts for n, one in self.supervisor.services.items()},
            own_ends=dict(self.supervisor.own_ends),
            exit_codes=codes,
            expired=said(self.expirer_log, "expired"),
            removed=said(self.expirer_log, "removed"),
            watched=self.watched,
            went_back=self.went_back,
            errors=self.errors + self.phones.errors,
        )

    def _await_collectors(self) -> None:
        deadline = time.monotonic() + READY_S
        for url in self.phones.collectors:
            while True:
                try:
                    if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{url} is not ready; see {self.folder}")
                time.sleep(0.1)

    def _torture(self) -> None:
        """Let every planned fault happen at its time, some of them at once."""
        plan = self.plan
        planned = schedule(FAULTS, plan.seed, plan.seconds, plan.fault_every_s)
        began = time.monotonic()
        slots = threading.Semaphore(AT_ONCE)
        threads: list[threading.Thread] = []
        for one in planned:
            time.sleep(max(0.0, began + one.at_s - time.monotonic()))
            if time.monotonic() - began > plan.seconds:
                break
            slots.acquire()
            thread = threading.Thread(
                target=self._guarded, args=(partial(self._inject, one, slots),)
            )
            thread.start()
            threads.append(thread)
        time.sleep(max(0.0, began + plan.seconds - time.monotonic()))
        for thread in threads:
            thread.join()

    def _inject(self, planned: Planned, slots: threading.Semaphore) -> None:
        try:
            happened = planned.fault.act(self, random.Random(planned.seed))
        finally:
            slots.release()
        if happened:
            self.injected[planned.fault.name] += happened
            self.say(f"{planned.at_s:7.2f} s  {planned.fault.name}")

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self.errors.append(repr(error))
            raise

    def _send_the_unsure(self) -> None:
        http = httpx.Client(timeout=10)
        with http:
            for body in self._unsure:
                answer = http.post(
                    f"{self.phones.collectors[0]}/events",
                    json=body,
                    headers={"X-API-Key": "dev-collect"},
                )
                answer.raise_for_status()
                self.ledger.told([body["event_id"]])

    def _drain(self, catalog: Catalog) -> None:
        """Return once the running loaders have loaded all there is."""
        deadline = time.monotonic() + DRAIN_S
        with closing(open_log(self.settings, self.clock)) as log:
            while behind := patiently(partial(self._behind, catalog, log)):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"never loaded: {behind}; see {self.folder}")
                time.sleep(0.2)

    def _behind(self, catalog: Catalog, log: Any) -> dict[str, Any]:
        behind = {}
        for stream in (EVENTS, ITEMS):
            state = log.state(self.settings.topic(stream))
            table = open_table(catalog, self.settings, stream)
            at = committed(table.metadata).get(stream)
            loaded: Mapping[int, int] = at.offsets if at is not None else {}
            left = {
                partition: end - loaded.get(partition, 0)
                for partition, end in state.end.items()
                if loaded.get(partition, 0) < end
            }
            if left:
                behind[stream] = left
        return behind

    def _watch(self, catalog: Catalog) -> None:
        """Offsets and their numbers only ever go up, whoever commits."""
        reached: dict[str, Mapping[str, Position]] = {}
        while not self._watch_stop.wait(WATCH_S):
            for name in WATCHED:
                opened = partial(open_table, catalog, self.settings, name)
                now = committed(patiently(opened).metadata)
                self._compare(name, reached.get(name, {}), now)
                reached[name] = now
            self.watched += 1

    def _compare(
        self,
        name: str,
        before: Mapping[str, Position],
        now: Mapping[str, Position],
    ) -> None:
        for stream, was in before.items():
            found = now.get(stream)
            if (
                found is None
                or found.load_seq < was.load_seq
                or any(found.offsets.get(p, 0) < at for p, at in was.offsets.items())
            ):
                self.went_back.append(f"{name} {stream}: {was} to {found}")

    def _commits(self, catalog: Catalog) -> dict[str, int]:
        """The loads of each table, and all commits to it: sequence numbers."""
        commits = {}
        for name in WATCHED:
            metadata = open_table(catalog, self.settings, name).metadata
            at = committed(metadata).get(EVENTS if name == "dead_letters" else name)
            commits[f"{name}: loads"] = at.load_seq if at is not None else 0
            commits[f"{name}: commits"] = metadata.last_sequence_number
        return commits
