"""The event log as every part sees it: partitions of records with offsets.

Two logs keep this contract: files of JSON lines and Kafka. An offset is an
opaque increasing integer; the end offset is where the next record will stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

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
class Batch:
    """Records read, and the offset to go on from in every partition."""

    records: Sequence[Record]
    next_offsets: Mapping[int, int]


class EventLog(Protocol):
    """Raises ``LogUnavailable`` from every method when it can't be reached."""

    def create(self, topic: str, *, compacted: bool = False) -> None:
        """Create ``topic`` where it doesn't exist yet."""
        ...

    def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Return once every message is durable: in order within a key.

        Raises ``PartlyStored`` where only some of them are."""
        ...

    def state(self, topic: str) -> TopicState | None:
        """None where the topic doesn't exist."""
        ...

    def read(self, topic: str, offsets: Mapping[int, int], limit: int) -> Batch:
        """Up to ``limit`` committed records from ``offsets`` (absent: the
        beginning) on, and no more than were there when it was called."""
        ...

    def close(self) -> None: ...
