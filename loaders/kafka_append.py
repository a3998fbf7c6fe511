"""Appending to Kafka: acknowledged by every replica in sync, or said not to be."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2

from feedloop.clock import Clock
from feedloop.contracts.log import Message
from feedloop.errors import PartlyStored
from loaders import kafka_batches
from loaders.instants import milliseconds
from loaders.kafka_batches import Sent
from loaders.kafka_clients import CONNECTION, connect

PRODUCER = CONNECTION | {
    "acks": "all",
    "enable_idempotence": True,
    # or a topic that was deleted would come back as the broker likes it
    "allow_auto_create_topics": False,
    "compression_type": "lz4",
    # What comes together is sent together and at once: whoever appends has
    # waited for company already.
    "linger_ms": 0,
    "batch_size": 256 * 1024,
    # whoever waits is answered after 1.5 s, so that more would help nobody
    "bootstrap_timeout_ms": 1200,
    "max_block_ms": 1000,
    "delivery_timeout_ms": 1200,
    "metrics_enabled": False,
}
BATCH_BYTES = 256 * 1024
WINDOW_BYTES = 4 << 20
# Above the delivery timeout: the client itself gives up first.
ACK_S = 1.4
CLOSE_S = 5.0
USERS_REMEMBERED = 200_000


class _Delivery(NamedTuple):
    """Some of what was appended, by index, and the future of its acknowledgement."""

    indexes: Sequence[int]
    future: Any


class KafkaAppender:
    """Connects when it is first used and, after a failure, anew: a producer that
    gave a batch up goes on with sequence numbers that the broker may refuse."""

    def __init__(self, bootstrap: Sequence[str], clock: Clock) -> None:
        self._bootstrap = bootstrap
        self._clock = clock
        self._producer: Any = None
        self._lock = threading.Lock()

    def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Return once the log has all of ``messages``.

        Raises ``KafkaError`` where none is known to be stored and
        ``PartlyStored`` where some are. What is not known to be stored may be
        so all the same, or become it a little later.
        """
        with self._lock:
            if self._producer is None:
                self._producer = connect(KafkaProducer, self._bootstrap, PRODUCER)
            try:
                self._append(self._producer, topic, messages)
            except (KafkaError, PartlyStored):
                self._retire()
                raise

    def close(self) -> None:
        with self._lock:
            if self._producer is not None:
                self._producer.close(timeout=CLOSE_S)
                self._producer = None

    def _append(self, producer: Any, topic: str, messages: Sequence[Message]) -> None:
        stored = [False] * len(messages)
        for window in _windows(messages):
            failure: KafkaError | None = None
            deliveries = self._send(producer, topic, messages, window)
            until = time.monotonic() + ACK_S
            for indexes, future in deliveries:
                error = _error_of(future, max(0.0, until - time.monotonic()))
                failure = failure or error
                if error is None:
                    for index in indexes:
                        stored[index] = True
            if failure is None:
                continue
            if not any(stored):
                raise failure
            raise PartlyStored(
                f"Kafka has {sum(stored)} of {len(stored)} messages of {topic} "
                f"({type(failure).__name__}: {failure}); send the others again.",
                stored,
            ) from failure

    def _send(
        self, producer: Any, topic: str, messages: Sequence[Message], window: range
    ) -> list[_Delivery]:
        """Hand the messages of ``window`` to the producer, those of a partition
        in their order."""
        partitions = sorted(producer.partitions_for(topic))
        count = len(partitions)
        rows: list[list[int]] = [[] for _ in partitions]
        batches: list[list[Sent]] = [[] for _ in partitions]
        sizes = [0] * count
        deliveries: list[_Delivery] = []
        enqueue = kafka_batches.enqueue if kafka_batches.IS_PINNED else _send_each

        def flush(at: int) -> None:
            partition = TopicPartition(topic, partitions[at])
            future = enqueue(producer, partition, batches[at])
            deliveries.append(_Delivery(rows[at], future))
            rows[at], batches[at], sizes[at] = [], [], 0

        last: datetime | None = None
        ms = 0
        for index in window:
            message = messages[index]
            # those of one request have one and the same time
            if last is None or message.timestamp is not last:
                last, ms = message.timestamp, milliseconds(message, self._clock)
            at = _murmur2(message.key) % count
            value = message.value
            size = 0 if value is None else len(value)
            if sizes[at] + size > BATCH_BYTES and batches[at]:
                flush(at)
            sizes[at] += size
            rows[at].append(index)
            batches[at].append((ms, message.key.encode(), value))
        for at in range(count):
            if batches[at]:
                flush(at)
        return deliveries

    def _retire(self) -> None:
        """Let go of the producer. A thread of its own ends it: a request that is
        under way takes a second to be given up."""
        producer, self._producer = self._producer, None
        # close() alone first waits for what can't be delivered
        producer._sender.force_close()
        threading.Thread(
            target=producer.close,
            kwargs={"timeout": CLOSE_S},
            name="kafka-retire",
            daemon=True,
        ).start()


class _Each:
    """The futures of single messages as one."""

    def __init__(self, futures: list[Any]) -> None:
        self._futures = futures

    def get(self, timeout: float) -> None:
        for future in self._futures:
            future.get(timeout)


def _send_each(
    producer: Any, partition: TopicPartition, records: Sequence[Sent]
) -> _Each:
    """``kafka_batches.enqueue`` by way of the client's public API."""
    return _Each(
        [
            producer.send(
                partition.topic,
                partition=partition.partition,
                timestamp_ms=ms,
                key=key,
                value=value,
            )
            for ms, key, value in records
        ]
    )


def _error_of(future: Any, timeout: float) -> KafkaError | None:
    try:
        future.get(timeout)
    except KafkaError as error:
        return error
    return None


def _windows(messages: Sequence[Message]) -> Iterator[range]:
    """Indexes of ``messages``, as many at a time as can be delivered before the
    time for it is up."""
    start = size = 0
    for index, message in enumerate(messages):
        size += 0 if message.value is None else len(message.value)
        if size > WINDOW_BYTES and index > start:
            yield range(start, index)
            start, size = index, 0
    yield range(start, len(messages))


@lru_cache(USERS_REMEMBERED)
def _murmur2(key: str) -> int:
    """Kafka's hash of a key, positive as its own clients make it: all of them
    put a user's messages into the same partition."""
    hashed: int = murmur2(key.encode()) & 0x7FFFFFFF
    return hashed
