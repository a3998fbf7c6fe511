"""The event log as every part sees it: partitions of records with offsets.

Two logs keep this contract: files of JSON lines and Kafka. An offset is an
opaque increasing integer; the end offset is where the next record will stand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

EVENTS, ITEMS, USERS = "events", "items", "users"
STREAMS = (EVENTS, ITEMS, USERS)


class Record(NamedTuple):
    """One message. ``timestamp_ms`` is the log's clock, ms since 1970."""

    partition: int
    offset: int
    timestamp_ms: int
    key: str | None
    value: bytes | None


class Message(NamedTuple):
    """One message to append; ``timestamp`` None is the log's own clock."""

    key: str
    value: bytes
    timestamp: datetime | None = None


@dataclass(frozen=True)
class TopicState:
    """What a topic is and holds now. Offsets by partition."""

    topic_id: str
    beginning: Mapping[int, int]
    end: Mapping[int, int]


@dataclass(frozen=True)
class Records:
    """Records as columns of one length, so that nothing need be done for each
    of them that can be done for all; within a partition in order."""

    partitions: NDArray[np.int32]
    offsets: NDArray[np.int64]
    timestamps_ms: NDArray[np.int64]
    keys: Sequence[str | None]
    values: Sequence[bytes | None]

    @classmethod
    def of(cls, records: Iterable[Record]) -> Records:
        columns = list(zip(*records, strict=True)) or [()] * 5
        partitions, offsets, timestamps_ms, keys, values = columns
        return cls(
            np.array(partitions, np.int32),
            np.array(offsets, np.int64),
            np.array(timestamps_ms, np.int64),
            keys,
            values,
        )

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Record:
        return Record(
            int(self.partitions[index]),
            int(self.offsets[index]),
            int(self.timestamps_ms[index]),
            self.keys[index],
            self.values[index],
        )

    def __iter__(self) -> Iterator[Record]:
        return map(self.__getitem__, range(len(self)))

    def between(self, first: int, last: int) -> Records:
        """Those at the positions [first, last)."""
        part = slice(first, last)
        return Records(
            self.partitions[part],
            self.offsets[part],
            self.timestamps_ms[part],
            self.keys[part],
            self.values[part],
        )


@dataclass(frozen=True)
class Batch:
    """Records read, in parts of any size, and the offset to go on from in
    every partition."""

    parts: Sequence[Records]
    next_offsets: Mapping[int, int]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def records(self) -> list[Record]:
        """One by one, for whoever reads few."""
        return list(chain.from_iterable(self.parts))


class ReadableLog(Protocol):
    """What a loader needs of a log. Raises ``LogUnavailable`` from every method
    when it can't be reached."""

    def state(self, topic: str) -> TopicState | None:
        """None where the topic doesn't exist."""
        ...

    def read(
        self,
        topic: str,
        offsets: Mapping[int, int],
        limit: int,
        only: Collection[int] | None = None,
    ) -> Batch:
        """Up to ``limit`` committed records from ``offsets`` (absent: the
        beginning) on, and no more than were there when it was called.

        ``only`` are the partitions to read; None is all of them. The batch's
        ``next_offsets`` has no others."""
        ...


class EventLog(ReadableLog, Protocol):
    """The whole log."""

    def create(self, topic: str, *, compacted: bool = False) -> None:
        """Create ``topic`` where it doesn't exist yet."""
        ...

    def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Return once every message is durable: in order within a key.

        Raises ``PartlyStored`` where only some of them are."""
        ...

    def offsets_at(self, topic: str, at: datetime) -> Mapping[int, int]:
        """Of every partition the offset of the first record whose time is
        ``at`` or later; where there is none, where it ends."""
        ...

    def waiting(self, topic: str, offsets: Mapping[int, int]) -> Mapping[int, int]:
        """Of every partition how many records stand from ``offsets`` (absent:
        the beginning) on. Kafka counts markers of transactions too."""
        ...

    def close(self) -> None: ...
