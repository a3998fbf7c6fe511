"""The model: anything that may happen to the pipeline, in any order.

Rules send, load, maintain, kill and wake; the invariants hold after each of
them, and at the end of every run all that was acknowledged is in the table.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import httpx
import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)
from kafka import KafkaAdminClient, KafkaProducer

from feedloop.clock import FileClock, SystemClock, clock_from
from feedloop.contracts.log import EVENTS, Message
from feedloop.contracts.tables import RAW_TABLES
from feedloop.errors import Fenced
from feedloop.server import running
from feedloop.settings import Settings, from_environment, to_environment
from loaders.collector import create_app
from loaders.compaction import CompactionPolicy, compact
from loaders.expiry import expire
from loaders.iceberg import Position, committed, ensure_tables, open_catalog, open_table
from loaders.loader import load_all
from loaders.log import open_log
from loaders.orphans import remove_orphans
from tests.support import children
from tests.support.children import Effect, Trap, When
from tests.torture.ledger import Body, Ledger
from tests.torture.oracle import judge

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
"""The clock never goes back beyond a few days before it, and all events are
older: none of them ever lies ahead of the log."""
DAYS = 9
CALLS_OF_A_LOAD = 60_000
TABLES = ("events", "dead_letters", "items")
ENDED_S = 120.0

some = st.integers(1, 9)
pick = st.integers(0, 10_000)
deadly = st.builds(
    Trap,
    st.sampled_from(TABLES),
    st.integers(0, 1),
    st.sampled_from(When),
    st.just(Effect.DIE),
)
unheard = st.builds(
    Trap,
    st.sampled_from(TABLES),
    st.integers(0, 1),
    st.just(When.AFTER),
    st.sampled_from((Effect.UNKNOWN, Effect.REFUSED, Effect.CUT)),
)


def load(environment: Mapping[str, str], trap: Trap | None, *events: Any) -> None:
    """In a process of its own: load everything, with ``trap`` laid."""
    settings = from_environment(environment)
    if trap is not None:
        children.lay(trap, *events)
    try:
        load_all(settings, clock_from(settings.clock_file))
    except Fenced:
        raise SystemExit(3) from None


def load_until(environment: Mapping[str, str], calls: int) -> None:
    """In a process of its own: load, and die at the ``calls``-th call."""
    children.die_at_call(calls)
    load(environment, None)


def maintain(environment: Mapping[str, str], calls: int | None) -> None:
    """Merge whatever can be merged and keep no snapshot but the heads.

    With ``calls`` it is in a process of its own, and dies at that call.
    """
    settings = from_environment(environment)
    catalog = open_catalog(settings)
    if calls is not None:
        children.die_at_call(calls)
    for name in TABLES:
        opened = partial(open_table, catalog, settings, name)
        expire(opened, timedelta(0), 1, SystemClock().now())
        policy = CompactionPolicy(target_bytes=64 << 20, min_files=2)
        compact(opened, RAW_TABLES[name].sort_by, policy)


def append_until(
    environment: Mapping[str, str], bodies: Sequence[Body], calls: int
) -> None:
    """In a process of its own: what a collector does that dies while it stores."""
    settings = from_environment(environment)
    log = open_log(settings, clock_from(settings.clock_file))
    messages = [Message(one["user_id"], msgspec.json.encode(one)) for one in bodies]
    children.die_at_call(calls)
    log.append(settings.topic(EVENTS), messages)


class Pipeline(RuleBasedStateMachine):
    """On the embedded log and catalog. ``folder`` is where runs live."""

    folder: ClassVar[Path]
    overrides: ClassVar[dict[str, Any]] = {}
    runs: ClassVar[Any] = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        home = self.folder / f"run{next(self.runs)}"
        self.clock = FileClock(home / "clock")
        self.clock.set(NOW)
        self.settings: Settings = from_environment(
            {},
            home=str(home),
            clock_file=str(self.clock.path),
            load_max_events=7,
            **self.named(),
        )
        self.environment = to_environment(self.settings)
        self.ledger = Ledger()
        self.numbers = itertools.count()
        self.reached: dict[str, Mapping[str, Position]] = {}
        self.asleep: list[tuple[Any, Any]] = []
        self.stack = ExitStack()
        self.log = self.stack.enter_context(
            closing(open_log(self.settings, self.clock))
        )
        self.catalog = open_catalog(self.settings)
        ensure_tables(self.catalog, self.settings)
        app = create_app(self.settings, self.log, self.clock)
        url = self.stack.enter_context(running(app))
        self.client = self.stack.enter_context(httpx.Client(base_url=url))

    def named(self) -> dict[str, Any]:
        return {"namespace": "t1"}

    # --- sending -------------------------------------------------------------

    def events(self, count: int) -> list[Body]:
        return [self.event(next(self.numbers)) for _ in range(count)]

    @staticmethod
    def event(number: int, **fields: Any) -> Body:
        at = NOW - timedelta(days=20) + timedelta(hours=31 * number % (24 * DAYS))
        return {
            "event_id": f"e{number}",
            "user_id": f"u{number % 7}",
            "item_id": f"i{number % 5}",
            "event_type": "click",
            "occurred_at": at.isoformat(),
            "context": {"device": "phone", "number": number},
        } | fields

    def post(self, bodies: list[Body]) -> None:
        self.ledger.sending(bodies)
        answer = self.client.post(
            "/events", json=bodies, headers={"X-API-Key": "dev-collect"}
        )
        assert answer.status_code == 202, answer.text
        self.ledger.told([one["event_id"] for one in answer.json()["results"]])

    def sent_before(self, index: int) -> Body | None:
        known = list(self.ledger.bodies.values())
        return known[index % len(known)][0] if known else None

    @rule(count=some)
    def send(self, count: int) -> None:
        self.post(self.events(count))

    @rule(index=pick, count=st.integers(0, 3))
    def send_again(self, index: int, count: int) -> None:
        """What a client does that never heard of the first try."""
        body = self.sent_before(index)
        if body is not None:
            self.post([body, *self.events(count), body])

    @rule(index=pick, twice_at_once=st.booleans(), elsewhere=st.booleans())
    def send_another_body(
        self, index: int, twice_at_once: bool, elsewhere: bool
    ) -> None:
        """One event_id with two bodies: of another day, perhaps another user."""
        first = self.sent_before(index)
        bodies = []
        if twice_at_once or first is None:
            bodies = self.events(1)
            first = bodies[0]
        number = next(self.numbers)
        other = self.event(number, event_id=first["event_id"], event_value=number / 2)
        if not elsewhere:
            other["user_id"] = first["user_id"]
        self.post([*bodies, other])

    @rule(count=some)
    def send_item(self, count: int) -> None:
        for _ in range(count):
            number = next(self.numbers)
            item_id, title = f"i{number % 5}", f"version {number}"
            body = {
                "category": "news",
                "published_at": "2026-01-01T00:00:00Z",
                "title": title,
            }
            answer = self.client.put(
                f"/items/{item_id}", json=body, headers={"X-API-Key": "dev-write"}
            )
            assert answer.status_code == 202, answer.text
            self.ledger.told_item(item_id, title)

    @rule(count=some)
    def write_garbage(self, count: int) -> None:
        """Another producer writes what is no event."""
        values = [b"garbage \xff %d" % next(self.numbers) for _ in range(count)]
        messages = [Message(f"u{n % 7}", value) for n, value in enumerate(values)]
        self.log.append(self.settings.topic(EVENTS), messages)
        for value in values:
            self.ledger.told_letter(value)

    @rule(count=some, calls=st.integers(1, 900))
    def collector_dies_while_it_stores(self, count: int, calls: int) -> None:
        """The client heard nothing, and sends again to the next collector."""
        bodies = self.events(count)
        self.ledger.sending(bodies)
        self.end(children.start(append_until, self.environment, bodies, calls))
        self.post(bodies)

    # --- loading -------------------------------------------------------------

    @rule()
    def load(self) -> None:
        load_all(self.settings, self.clock)

    @rule(calls=st.integers(1, CALLS_OF_A_LOAD))
    def loader_dies_anywhere(self, calls: int) -> None:
        self.end(children.start(load_until, self.environment, calls))

    @rule(trap=deadly | unheard)
    def loader_trips_at_a_commit(self, trap: Trap) -> None:
        context = children.context()
        events = context.Event(), context.Event()
        self.end(children.start(load, self.environment, trap, *events))

    @precondition(lambda self: len(self.asleep) < 2)
    @rule(table=st.sampled_from(TABLES))
    def loader_falls_asleep_before_a_commit(self, table: str) -> None:
        """Its batch is written and its commit is not; others go on meanwhile."""
        context = children.context()
        reached, go_on = context.Event(), context.Event()
        trap = Trap(table, 0, When.BEFORE, Effect.WAIT)
        process = children.start(load, self.environment, trap, reached, go_on)
        while not reached.wait(0.02):
            if process.exitcode is not None:
                assert process.exitcode in (0, 3), process.exitcode
                return  # there was nothing to commit
        self.asleep.append((process, go_on))

    @precondition(lambda self: self.asleep)
    @rule(index=pick)
    def it_wakes_up(self, index: int) -> None:
        process, go_on = self.asleep.pop(index % len(self.asleep))
        go_on.set()
        self.end(process, may_be_killed=False)

    # --- maintaining ---------------------------------------------------------

    @rule()
    def maintain(self) -> None:
        maintain(self.environment, None)

    @rule(calls=st.integers(1, CALLS_OF_A_LOAD))
    def maintenance_dies_anywhere(self, calls: int) -> None:
        self.end(children.start(maintain, self.environment, calls))

    @precondition(lambda self: not self.asleep)
    @rule()
    def remove_orphans(self) -> None:
        """As if it were tomorrow: all that was left behind is old by then."""
        tomorrow = SystemClock().now() + timedelta(days=1)
        for name in TABLES:
            opened = partial(open_table, self.catalog, self.settings, name)
            remove_orphans(opened, timedelta(hours=1), timedelta(hours=1), tomorrow)

    # --- what else happens ---------------------------------------------------

    @rule(hours=st.integers(-36, 36))
    def the_clock_jumps(self, hours: int) -> None:
        self.clock.set(NOW + timedelta(hours=hours))

    # --- what must hold ------------------------------------------------------

    @invariant()
    def no_offset_goes_back(self) -> None:
        for name in TABLES:
            table = open_table(self.catalog, self.settings, name)
            now = committed(table.metadata)
            for stream, before in self.reached.get(name, {}).items():
                assert now[stream].load_seq >= before.load_seq, (name, stream)
                for partition, offset in before.offsets.items():
                    assert now[stream].offsets[partition] >= offset, (name, partition)
            self.reached[name] = now

    @rule()
    def nothing_is_twice_or_wrong(self) -> None:
        verdict = judge(
            self.ledger, self.settings, self.catalog, self.log, drained=False
        )
        assert not verdict.faults(), verdict.faults()

    def end(self, process: Any, *, may_be_killed: bool = True) -> None:
        process.join(ENDED_S)
        assert process.exitcode is not None, "it never ended"
        ends = {0, 1, 3, -9} if may_be_killed else {0, 3}
        assert process.exitcode in ends, process.exitcode

    def teardown(self) -> None:
        try:
            for process, go_on in self.asleep:
                go_on.set()
                self.end(process, may_be_killed=False)
            load_all(self.settings, self.clock)
            self.no_offset_goes_back()
            verdict = judge(self.ledger, self.settings, self.catalog, self.log)
            assert not verdict.faults(), verdict.faults()
            assert verdict.stored == len(self.ledger.bodies)
            assert load_all(self.settings, self.clock) == []
        finally:
            for process, _ in self.asleep:
                process.kill()
            self.stack.close()


class KafkaPipeline(Pipeline):
    """On a real broker: transactions, and partitions that are added."""

    bootstrap: ClassVar[str]

    def named(self) -> dict[str, Any]:
        return {
            "namespace": f"t{uuid.uuid4().hex[:12]}",
            "log": "kafka",
            "kafka_bootstrap": self.bootstrap,
        }

    @rule(count=some, committed=st.booleans())
    def send_in_a_transaction(self, count: int, committed: bool) -> None:
        """Aborted, it never was; committed, it is as good as a 202."""
        bodies = self.events(count)
        topic = self.settings.topic(EVENTS)
        producer = KafkaProducer(
            bootstrap_servers=self.bootstrap, transactional_id=topic, acks="all"
        )
        with closing(producer):
            producer.init_transactions()
            producer.begin_transaction()
            for one in bodies:
                value = msgspec.json.encode(one)
                producer.send(topic, key=one["user_id"].encode(), value=value)
            producer.flush()
            if not committed:
                producer.abort_transaction()
                return
            self.ledger.sending(bodies)
            producer.commit_transaction()
            self.ledger.told([one["event_id"] for one in bodies])

    @rule()
    def add_a_partition(self) -> None:
        topic = self.settings.topic(EVENTS)
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            now = len(admin.describe_topics([topic])[0]["partitions"])
            admin.create_partitions({topic: now + 1})
