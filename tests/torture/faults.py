"""What goes wrong: each fault is a function of the world and a seeded chance.

A fault lasts as long as its function does and leaves nothing broken behind, so
that a quiet end is quiet. It returns how often it really happened.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError

from feedloop.contracts.log import EVENTS
from tests.support.children import Effect, When
from tests.torture.client import event
from tests.torture.services import SMALL_DISK_BYTES, Service

if TYPE_CHECKING:
    from tests.torture.world import World

MOST_PARTITIONS = 6
TABLES = ("events", "events", "dead_letters", "items")
START = datetime(2026, 3, 10, 12, tzinfo=UTC)
"""Of the clock; it stays within three days of it."""
Act = Callable[["World", random.Random], int]


class Fault(NamedTuple):
    """``weight``: how often it is drawn, against the others'."""

    name: str
    weight: float
    act: Act


@dataclass(frozen=True)
class Planned:
    """``seed`` is that of the fault's own chance."""

    at_s: float
    fault: Fault
    seed: int


def schedule(
    faults: Sequence[Fault], seed: int, seconds: float, every_s: float
) -> list[Planned]:
    """Which fault begins when: the same one for the same seed."""
    chance = random.Random(f"{seed} faults")
    planned = []
    at = 0.0
    weights = [fault.weight for fault in faults]
    while (at := at + chance.expovariate(1 / every_s)) < seconds:
        (fault,) = chance.choices(faults, weights)
        planned.append(Planned(at, fault, chance.getrandbits(64)))
    return planned


# --- processes ---------------------------------------------------------------


def killed(role: str) -> Act:
    def act(world: World, chance: random.Random) -> int:
        return int(chance.choice(world.of(role)).kill())

    return act


def reader_killed(world: World, chance: random.Random) -> int:
    """A process that reads for a loader; there are some after a backlog."""
    pids = [pid for service in world.of("loader") for pid in service.readers()]
    if not pids:
        return 0
    with suppress(ProcessLookupError):
        os.kill(chance.choice(pids), signal.SIGKILL)
        return 1
    return 0


def frozen(role: str, most_s: float) -> Act:
    """Stopped in whatever it does, and woken up later: a zombie."""

    def act(world: World, chance: random.Random) -> int:
        service = chance.choice(world.of(role))
        with world.frozen(service) as is_frozen:
            time.sleep(chance.uniform(0.2, most_s))
        return int(is_frozen)

    return act


def choked(role: str) -> Act:
    """Its disk is full for a while."""

    def act(world: World, chance: random.Random) -> int:
        service: Service = chance.choice(world.of(role))
        process = service.process
        if not service.choke(SMALL_DISK_BYTES):
            return 0
        time.sleep(chance.uniform(0.3, 2))
        if service.process is process:
            service.choke(-1)
        return 1

    return act


def at_a_commit(name: str, weight: float, when: When, effect: Effect) -> Fault:
    """Ordered for the next commit to a table; it counts once it was met."""

    def act(world: World, chance: random.Random) -> int:
        world.orders.give(chance.choice(TABLES), when, effect, name)
        return 0

    return Fault(name, weight, act)


# --- Kafka -------------------------------------------------------------------


def broker_killed(world: World, chance: random.Random) -> int:
    """SIGKILL; back on the same data after a while. Without a second broker
    nothing can be stored meanwhile, with two more nothing should be lost."""
    broker = chance.choice(world.kafka.brokers)
    with world.broker_lock:
        broker.kill()
        time.sleep(chance.uniform(0, 1.5))
        broker.spawn()
        broker.await_ready()
    return 1


def connections_cut(world: World, chance: random.Random) -> int:
    for _ in range(chance.randint(1, 5)):
        for proxy in world.kafka.proxies:
            proxy.cut()
        time.sleep(chance.uniform(0, 0.2))
    return 1


def connections_stalled(world: World, chance: random.Random) -> int:
    proxy = chance.choice(world.kafka.proxies)
    proxy.stall()
    time.sleep(chance.uniform(0.3, 3))
    proxy.flow()
    return 1


def replies_lost(world: World, chance: random.Random) -> int:
    """The broker has what was sent, and nobody hears of it."""
    for proxy in world.kafka.proxies:
        proxy.lose_replies()
    time.sleep(chance.uniform(0.1, 1))
    for proxy in world.kafka.proxies:
        proxy.flow()
    return 1


# --- the catalog -------------------------------------------------------------


def catalog_killed(world: World, chance: random.Random) -> int:
    """SIGKILL of its server; back on the same data after a while."""
    with world.catalog_lock:
        world.postgres.kill()
        time.sleep(chance.uniform(0, 1.5))
        world.postgres.start()
    return 1


def catalog_cut(world: World, chance: random.Random) -> int:
    for _ in range(chance.randint(1, 5)):
        world.to_catalog.cut()
        time.sleep(chance.uniform(0, 0.2))
    return 1


def catalog_replies_lost(world: World, chance: random.Random) -> int:
    """A commit that landed, and nobody hears of it."""
    world.to_catalog.lose_replies()
    time.sleep(chance.uniform(0.05, 0.5))
    world.to_catalog.flow()
    return 1


# --- what stands in the log --------------------------------------------------


def partition_added(world: World, chance: random.Random) -> int:
    """Keys then go to other partitions than before."""
    topic = world.settings.topic(EVENTS)
    try:
        with closing(
            KafkaAdminClient(bootstrap_servers=world.kafka.bootstrap)
        ) as admin:
            now = len(admin.describe_topics([topic])[0]["partitions"])
            if now >= MOST_PARTITIONS:
                return 0
            admin.create_partitions({topic: now + 1})
    except KafkaError:
        return 0  # no broker answers just now
    return 1


def transaction(committed: bool) -> Act:
    """Another producer's: what is aborted was never sent."""

    def act(world: World, chance: random.Random) -> int:
        topic = world.settings.topic(EVENTS)
        bodies = [event(chance) for _ in range(chance.randint(1, 20))]
        if committed:
            world.ledger.sending(bodies)
        try:
            with closing(
                KafkaProducer(
                    bootstrap_servers=world.kafka.bootstrap,
                    transactional_id=f"{topic}.{chance.getrandbits(64)}",
                    transaction_timeout_ms=5000,
                    acks="all",
                    max_block_ms=3000,
                )
            ) as producer:
                producer.init_transactions()
                producer.begin_transaction()
                for one in bodies:
                    producer.send(
                        topic,
                        key=one["user_id"].encode(),
                        value=msgspec.json.encode(one),
                    )
                producer.flush(timeout=3)
                if committed:
                    producer.commit_transaction()
                else:
                    producer.abort_transaction()
        except KafkaError:
            if committed:
                world.unsure(bodies)
            return 0
        if committed:
            world.ledger.told([one["event_id"] for one in bodies])
        return 1

    return act


def garbage(world: World, chance: random.Random) -> int:
    """Another producer writes what is no event."""
    topic = world.settings.topic(EVENTS)
    values = [
        chance.choice((b"garbage \xff ", b'{"event_id": ', b"[] "))
        + str(chance.getrandbits(64)).encode()
        for _ in range(chance.randint(1, 8))
    ]
    try:
        with closing(
            KafkaProducer(
                bootstrap_servers=world.kafka.bootstrap, acks="all", max_block_ms=3000
            )
        ) as producer:
            sent = [producer.send(topic, value=value) for value in values]
            for value, future in zip(values, sent, strict=True):
                future.get(timeout=5)
                world.ledger.told_letter(value)
    except KafkaError:
        return 0  # the log says which of them it has
    return 1


# --- time --------------------------------------------------------------------


def clock_jump(world: World, chance: random.Random) -> int:
    world.clock.set(START + timedelta(hours=chance.uniform(-72, 72)))
    return 1


FAULTS = (
    Fault("SIGKILL of a loader", 10, killed("loader")),
    Fault("SIGKILL of a process that reads for a loader", 5, reader_killed),
    Fault("SIGKILL of a collector", 4, killed("collector")),
    Fault("SIGKILL of the compactor", 4, killed("compactor")),
    Fault("SIGKILL of the expirer", 2, killed("expirer")),
    Fault("SIGSTOP of a loader, SIGCONT later", 5, frozen("loader", 6)),
    Fault("SIGSTOP of a collector, SIGCONT later", 2, frozen("collector", 3)),
    Fault("SIGSTOP of the compactor, SIGCONT later", 2, frozen("compactor", 6)),
    at_a_commit("SIGKILL right before a commit", 3, When.BEFORE, Effect.DIE),
    at_a_commit("SIGKILL between a commit and its reply", 3, When.AFTER, Effect.DIE),
    at_a_commit(
        "commit landed, reply lost: state unknown", 3, When.AFTER, Effect.UNKNOWN
    ),
    at_a_commit(
        "commit landed, reply lost: repeated and refused", 3, When.AFTER, Effect.REFUSED
    ),
    at_a_commit(
        "commit landed, connection to the catalog cut", 3, When.AFTER, Effect.CUT
    ),
    Fault("SIGKILL of the catalog's PostgreSQL, restart", 2, catalog_killed),
    Fault("all connections to the catalog cut", 3, catalog_cut),
    Fault("replies of the catalog lost", 3, catalog_replies_lost),
    Fault("disk full under a loader", 3, choked("loader")),
    Fault("disk full under the compactor", 2, choked("compactor")),
    Fault("clock jumps by up to three days", 3, clock_jump),
    Fault("SIGKILL of a broker, restart", 2, broker_killed),
    Fault("all connections to Kafka cut", 4, connections_cut),
    Fault("a broker's connections stalled", 2, connections_stalled),
    Fault("replies of Kafka lost", 3, replies_lost),
    Fault("a partition added", 1.5, partition_added),
    Fault("transaction aborted by another producer", 3, transaction(False)),
    Fault("transaction committed by another producer", 2, transaction(True)),
    Fault("garbage written by another producer", 4, garbage),
)
