"""Kafka's record batches parsed whole, many records at a time.

kafka-python makes several objects of every record, which costs more than all
that is done with it afterwards. What is here stands inside its consumer, in
private API of one version, ``PINNED``; with another version the consumer
polls as it always does, and ``test_kafka_fetch.py`` holds both to be the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import kafka
import numpy as np
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import IsolationLevel
from numpy.typing import NDArray

from feedloop.contracts.log import Record, Records
from loaders.kafka_clients import PINNED

# Record batches are parsed together until there are as many records: enough
# for the fixed cost of each step to vanish, few enough to stay in the cache.
GROUP_RECORDS = 2048
MAGIC = 2
LAST_SHIFT = 63


def install(consumer: Any) -> bool:
    """Make ``consumer.poll`` return ``Records`` a group of record batches, and
    ``max_records`` count those. False where this kafka-python is another."""
    if kafka.__version__ != PINNED:
        return False
    consumer._fetcher.PartitionRecords = WholeBatches
    return True


def key_text(key: bytes | None) -> str | None:
    return None if key is None else key.decode(errors="backslashreplace")


class WholeBatches(Fetcher.PartitionRecords):  # type: ignore[misc]
    """What was fetched of one partition. Checksums, aborted transactions,
    control batches and the position are handled as in the class above it."""

    def _maybe_skip_record(self, records: Records) -> bool:
        return False  # what lies before the fetch offset is already left out

    def _unpack_records(
        self, tp: Any, fetched: Any, key_deserializer: Any, value_deserializer: Any
    ) -> Iterator[Records]:
        group: list[Any] = []
        count = 0
        following = self.next_fetch_offset
        try:
            while (batch := fetched.next_batch()) is not None:
                if self._is_visible(batch):
                    group.append(batch)
                    count += 1 if batch.magic < MAGIC else batch.records_count
                following = batch.next_offset
                if count >= GROUP_RECORDS:
                    yield from self._hand_out(tp.partition, group, following)
                    group, count = [], 0
        except CorruptRecordError:
            # What came before it is good; after it, nothing more may come.
            yield from self._hand_out(tp.partition, group, following)
            raise
        yield from self._hand_out(tp.partition, group, following)
        self.drain()

    def _hand_out(
        self, partition: int, group: Sequence[Any], following: int
    ) -> Iterator[Records]:
        records = parse(partition, group, self.fetch_offset) if group else None
        # only now: where a group can't be parsed, the position stays before it
        self.next_fetch_offset = following
        if records:
            self.records_read += len(records)
            self.bytes_read += sum(batch.size_in_bytes for batch in group)
            yield records

    def _is_visible(self, batch: Any) -> bool:
        if self.check_crcs and not batch.validate_crc():
            raise CorruptRecordError(
                f"the record batch of {self.topic_partition} at offset "
                f"{batch.base_offset} has another checksum than was sent with it"
            )
        if batch.magic < MAGIC:
            return True
        self.leader_epoch = batch.leader_epoch
        if (
            self.isolation_level == IsolationLevel.READ_COMMITTED
            and batch.has_producer_id()
        ):
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return False
        return not batch.is_control_batch


def parse(partition: int, batches: Sequence[Any], first_offset: int) -> Records:
    """The records of ``batches`` from ``first_offset`` on.

    Raises ``CorruptRecordError`` where their structure is broken.
    """
    if any(batch.magic < MAGIC for batch in batches):
        records = [
            Record(partition, r.offset, r.timestamp, key_text(r.key), r.value)
            for batch in batches
            for r in batch
            if r.offset >= first_offset
        ]
        return Records.of(records)
    try:
        return _parse(partition, batches, first_offset)
    except (IndexError, OverflowError) as error:
        raise CorruptRecordError(f"a record ends too early: {error}") from error


def _parse(partition: int, batches: Sequence[Any], first_offset: int) -> Records:
    bodies = [_body(batch) for batch in batches]
    buffer = b"".join(bodies)
    starts, ends = _bounds(buffer, bodies, [batch.records_count for batch in batches])
    data = np.frombuffer(buffer, np.uint8)

    at = starts + 1  # past the attributes, which mean nothing yet
    time_deltas, at = _varints(data, at)
    offset_deltas, at = _varints(data, at)
    key_lengths, key_starts = _varints(data, at)
    key_ends = key_starts + np.maximum(key_lengths, 0)
    value_lengths, value_starts = _varints(data, key_ends)
    value_ends = value_starts + np.maximum(value_lengths, 0)
    headers, at = _varints(data, value_ends)
    # nobody asks for the headers, and the length says where they end
    if not np.all(np.where(headers == 0, at == ends, (headers > 0) & (at < ends))):
        raise CorruptRecordError("a record has another length than it says")

    counts = [batch.records_count for batch in batches]
    base_offsets = np.repeat([batch.base_offset for batch in batches], counts)
    # In a topic with LogAppendTime the batch has the time, its records none.
    appended = np.repeat([batch.timestamp_type == 1 for batch in batches], counts)
    last_times = np.repeat([batch.max_timestamp for batch in batches], counts)
    first_times = np.repeat([batch.first_timestamp for batch in batches], counts)
    value_slices = _Slices(buffer, value_starts, value_ends, value_lengths < 0)
    records = Records(
        np.full(len(starts), partition, np.int32),
        base_offsets + offset_deltas,
        np.where(appended, last_times, first_times + time_deltas),
        _Keys(_Slices(buffer, key_starts, key_ends, key_lengths < 0)),
        value_slices.to_list(),
    )
    # A fetch that begins inside a record batch brings the whole of it.
    skipped = int(np.searchsorted(records.offsets, first_offset))
    return records.between(skipped, len(records)) if skipped else records


def _body(batch: Any) -> bytes | bytearray:
    batch._maybe_uncompress()
    body: bytearray = batch._buffer
    return body[batch._pos :] if batch._pos else body


def _bounds(
    buffer: bytes, bodies: Sequence[bytes | bytearray], counts: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each record begins, after its length, and where it ends."""
    starts: list[int] = []
    ends: list[int] = []
    at = batch_end = 0
    for body, count in zip(bodies, counts, strict=True):
        batch_end += len(body)
        for _ in range(count):
            length = buffer[at]
            at += 1
            if length >= 0x80:
                length &= 0x7F
                shift = 7
                while (byte := buffer[at]) >= 0x80:
                    length |= (byte & 0x7F) << shift
                    shift += 7
                    at += 1
                length |= byte << shift
                at += 1
            starts.append(at)
            at += length >> 1  # zigzag: an odd one is negative
            if length & 1 or at > batch_end:
                raise CorruptRecordError("a record reaches beyond its batch")
            ends.append(at)
        if at != batch_end:
            raise CorruptRecordError(f"{batch_end - at} bytes after the last record")
    return np.array(starts, np.int64), np.array(ends, np.int64)


def _varints(
    data: NDArray[np.uint8], at: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The zigzag varint at each position, and the position after it."""
    byte = data[at]
    after = at + 1
    value = (byte & 0x7F).astype(np.uint64)
    more = np.flatnonzero(byte >= 0x80)
    shift = 7
    while len(more):
        if shift > LAST_SHIFT:
            raise CorruptRecordError("a number of more than 64 bits")
        byte = data[after[more]]
        value[more] |= (byte & 0x7F).astype(np.uint64) << np.uint64(shift)
        after[more] += 1
        more = more[byte >= 0x80]
        shift += 7
    one = np.uint64(1)
    return (value >> one).view(np.int64) ^ -(value & one).view(np.int64), after


class _Slices:
    """Parts of ``buffer``, cut out when they are asked for."""

    def __init__(
        self,
        buffer: bytes,
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        null: NDArray[np.bool_],
    ) -> None:
        self._buffer = buffer
        self._starts = starts
        self._ends = ends
        self._null = null

    def __len__(self) -> int:
        return len(self._starts)

    def one(self, index: int) -> bytes | None:
        if self._null[index]:
            return None
        return self._buffer[self._starts[index] : self._ends[index]]

    def part(self, part: slice) -> _Slices:
        return _Slices(
            self._buffer, self._starts[part], self._ends[part], self._null[part]
        )

    def to_list(self) -> list[bytes | None]:
        buffer = self._buffer
        bounds = zip(self._starts.tolist(), self._ends.tolist(), strict=True)
        cut: list[bytes | None] = [buffer[start:end] for start, end in bounds]
        for index in np.flatnonzero(self._null):
            cut[index] = None
        return cut


class _Keys(Sequence[str | None]):
    """Keys as text; only dead letters ask for theirs."""

    def __init__(self, slices: _Slices) -> None:
        self._slices = slices

    def __len__(self) -> int:
        return len(self._slices)

    @overload
    def __getitem__(self, index: int) -> str | None: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str | None]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str | None] | None:
        if isinstance(index, slice):
            return _Keys(self._slices.part(index))
        return key_text(self._slices.one(index))
