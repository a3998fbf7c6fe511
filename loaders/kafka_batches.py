"""Record batches of Kafka's format, laid out many records at a time.

``KafkaProducer.send`` spends most of a message's cost on what a message that
comes with others doesn't need: a future, locks, a call for every byte of its
lengths. Here the records of a partition are laid out in one pass; compression,
checksums, sequence numbers, retries and acknowledgement stay the client's.

That takes private API of the client, of one version; see ``IS_PINNED``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import kafka
from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaTimeoutError
from kafka.producer.future import FutureRecordMetadata
from kafka.producer.producer_batch import ProducerBatch
from kafka.record.memory_records import MemoryRecordsBuilder

from loaders.kafka_clients import PINNED

IS_PINNED = kafka.__version__ == PINNED
"""Whether the client is the one that this module was written for."""
MAGIC = 2

Sent = tuple[int, bytes, bytes | None]
"""What goes into a record: timestamp in ms since 1970, key, value."""


class BatchFuture:
    """Whether a batch is stored: all of it or, where it must be split because the
    broker finds it too large, each of its parts."""

    def __init__(self, batch: ProducerBatch) -> None:
        self._produced = batch.produce_future
        self._records: dict[int, FutureRecordMetadata] = {}
        self._count: int = batch.record_count

    # The client asks a batch for its records' futures when it splits it.
    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> FutureRecordMetadata:
        if index not in self._records:
            self._records[index] = FutureRecordMetadata(
                self._produced, index, None, None, -1, -1, -1
            )
        return self._records[index]

    def get(self, timeout: float) -> None:
        """Raises the ``KafkaError`` for which it isn't, or not in time."""
        until = time.monotonic() + timeout
        if not self._produced.wait(timeout):
            raise KafkaTimeoutError(f"not acknowledged within {timeout:.1f} s")
        if not self._produced.is_done:  # the client splits it
            for index in range(self._count):
                self[index].get(max(0.0, until - time.monotonic()))
            return
        _, _, error_of = self._produced.value
        if error_of is not None:
            raise error_of(0)


def _varint(value: int) -> bytes:
    """``value`` in zigzag, seven bits a byte, the lowest first."""
    value = (value << 1) ^ (value >> 63)
    found = bytearray()
    while value > 0x7F:
        found.append(0x80 | (value & 0x7F))
        value >>= 7
    found.append(value)
    return bytes(found)


_SMALL = [_varint(value) for value in range(8192)]  # what one or two bytes hold


def lay_out(records: Sequence[Sent]) -> bytes:
    """The records as a batch has them after its header."""
    first = records[0][0]
    small, most = _SMALL, len(_SMALL)
    parts: list[bytes] = []
    for offset, (ms, key, value) in enumerate(records):
        delta = ms - first
        size = -1 if value is None else len(value)
        body = b"\0%b%b%b%b%b%b\0" % (
            small[delta] if 0 <= delta < most else _varint(delta),
            small[offset] if offset < most else _varint(offset),
            small[len(key)] if len(key) < most else _varint(len(key)),
            key,
            small[size] if 0 <= size < most else _varint(size),
            value or b"",
        )
        length = len(body)
        parts.append(small[length] if length < most else _varint(length))
        parts.append(body)
    return b"".join(parts)


def build(records: Sequence[Sent], codec: int) -> MemoryRecordsBuilder:
    """A full batch of ``records``. ``codec``: Kafka's number of a compression."""
    laid_out = lay_out(records)
    found = MemoryRecordsBuilder(MAGIC, codec, len(laid_out))
    builder = found._builder
    builder._buffer += laid_out
    builder._first_timestamp = records[0][0]
    builder._max_timestamp = max(ms for ms, _, _ in records)
    builder._num_records = len(records)
    builder._last_offset = len(records) - 1
    found._next_offset = len(records)
    return found


def enqueue(
    producer: KafkaProducer, partition: TopicPartition, records: Sequence[Sent]
) -> BatchFuture:
    """Hand ``records`` to ``producer`` as one batch.

    The producer's ``linger_ms`` must be 0: the batch is complete.
    """
    built = build(records, producer.config["compression_attrs"])
    batch = ProducerBatch(partition, built)
    batch._record_futures = future = BatchFuture(batch)
    accumulator = producer._accumulator
    with accumulator._tp_lock(partition):
        accumulator._batches[partition].append(batch)
        accumulator._incomplete.add(batch)
    producer._sender.wakeup()
    return future
