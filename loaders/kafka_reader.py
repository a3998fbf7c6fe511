"""Reading partitions of a Kafka topic from any offsets on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from kafka import TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from feedloop.contracts.log import Batch, Record, Records
from loaders.kafka_fetch import install, key_text

POLL_RECORDS = 500
POLL_GROUPS = 8
POLL_MS = 200
STALLED_S = 10.0


def bounds(
    consumer: Any, partitions: Sequence[TopicPartition]
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """The first offset of each partition, and the one after its last.

    Raises ``KafkaError`` where a partition was just added and the client doesn't
    know its leader yet: the client fails with a KeyError of its own.
    """
    try:
        beginnings = consumer.beginning_offsets(partitions)
        return beginnings, consumer.end_offsets(partitions)
    except KeyError as error:
        raise KafkaError(f"{error.args[0]} has no known leader yet") from error


class KafkaReader:
    """What ``consumer`` reads. After an error it is of no more use."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._reads_groups = install(consumer)
        # where the last read ended, and what the consumer has given beyond that
        self._next: dict[TopicPartition, int] = {}
        self._held: dict[TopicPartition, list[Records]] = {}

    def read(
        self,
        partitions: Sequence[TopicPartition],
        offsets: Mapping[int, int],
        limit: int,
    ) -> Batch:
        """As ``EventLog.read``; raises ``OffsetOutOfRangeError``."""
        beginnings, ends = bounds(self._consumer, partitions)
        starts = {tp: offsets.get(tp.partition, beginnings[tp]) for tp in partitions}
        for tp, start in starts.items():
            if not beginnings[tp] <= start <= ends[tp]:
                raise OffsetOutOfRangeError(f"{tp.partition}: {start}")
        self._seek(starts)
        parts = self._parts(ends, limit)
        reached = {tp.partition: min(self._next[tp], ends[tp]) for tp in ends}
        return Batch(parts, reached)

    def _seek(self, starts: Mapping[TopicPartition, int]) -> None:
        """Go to ``starts``, keeping what is fetched where it already is."""
        if self._next.keys() != starts.keys():
            self._consumer.assign(list(starts))
            self._next, self._held = {}, {}
        for tp, start in starts.items():
            if self._next.get(tp) != start:
                self._consumer.seek(tp, start)
                self._held[tp] = []
                self._next[tp] = start

    def _parts(self, ends: Mapping[TopicPartition, int], limit: int) -> list[Records]:
        parts: list[Records] = []
        left = limit
        for tp, end in ends.items():
            if held := self._held[tp]:
                self._held[tp] = []
                left -= self._take(tp, held, end, left, parts)
                self._next[tp] = self._position(tp)
        last_progress = time.monotonic()
        while left > 0:
            waiting = [tp for tp, end in ends.items() if self._next[tp] < end]
            if not waiting:
                break
            before = dict(self._next)
            for tp, records in self._poll(waiting, ends.keys() - waiting, left):
                left -= self._take(tp, records, ends[tp], left, parts)
            for tp in waiting:
                self._next[tp] = self._position(tp)
            if self._next != before:
                last_progress = time.monotonic()
            elif time.monotonic() - last_progress > STALLED_S:
                raise KafkaError(f"nothing came for {STALLED_S:.0f} s")
        return parts

    def _poll(
        self,
        waiting: Sequence[TopicPartition],
        others: Iterable[TopicPartition],
        left: int,
    ) -> list[tuple[TopicPartition, list[Records]]]:
        self._consumer.pause(*others)
        self._consumer.resume(*waiting)
        most = POLL_GROUPS if self._reads_groups else min(POLL_RECORDS, left)
        found = self._consumer.poll(POLL_MS, max_records=most).items()
        if self._reads_groups:
            return list(found)
        return [(tp, [Records.of(map(_record, records))]) for tp, records in found]

    def _take(
        self,
        tp: TopicPartition,
        found: Sequence[Records],
        end: int,
        left: int,
        parts: list[Records],
    ) -> int:
        """Move up to ``left`` records before ``end`` from ``found`` to
        ``parts``, and hold the others. How many were moved."""
        taken = 0
        for records in found:
            here = min(int(np.searchsorted(records.offsets, end)), left - taken)
            if here:
                parts.append(records.between(0, here))
            if here < len(records):
                self._held[tp].append(records.between(here, len(records)))
            taken += here
        return taken

    def _position(self, tp: TopicPartition) -> int:
        """Where to read on: it passes transaction markers, which no record
        shows, and stands before what is held."""
        if self._held[tp]:
            return int(self._held[tp][0].offsets[0])
        position: int = self._consumer.position(tp)
        return position


def _record(message: Any) -> Record:
    return Record(
        message.partition,
        message.offset,
        message.timestamp,
        key_text(message.key),
        message.value,
    )
