"""Reading a batch from the log: a part of it at a time, decoded.

A part is what the loader holds in memory at once. Here one process reads it;
``readers.py`` lets several do so.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import pyarrow as pa

from feedloop.contracts.log import ReadableLog, Records
from feedloop.settings import Settings
from loaders.decode import decoder

READ_RECORDS = 50_000
PART_RECORDS = 200_000

Offsets = Mapping[int, int]


class Part(NamedTuple):
    """Rows in the stream's schema, dead letters in theirs, and the offsets of
    every partition that was read after both."""

    rows: pa.Table
    dead: pa.Table
    offsets: Offsets


class Reading(Protocol):
    """Who reads for a loader."""

    def parts(self, offsets: Offsets, load_seq: int, most: int) -> Iterator[Part]:
        """Up to ``most`` records from ``offsets`` on, in parts."""
        ...


class PartReader:
    """Reads and decodes a stream, or the partitions ``only`` of it, by itself."""

    def __init__(
        self,
        settings: Settings,
        log: ReadableLog,
        stream: str,
        only: Collection[int] | None = None,
        part_records: int = PART_RECORDS,
    ) -> None:
        self._log = log
        self._topic = settings.topic(stream)
        self._decoder = decoder(stream, settings)
        self._only = only
        self._part_records = part_records

    def parts(self, offsets: Offsets, load_seq: int, most: int) -> Iterator[Part]:
        left = most
        while left > 0:
            # an empty one, so that there is a schema where there are no records
            decoded = [self._decoder.decode(Records.of([]), load_seq)]
            room = min(left, self._part_records)
            left -= room
            with _no_garbage_collection():
                while room > 0:
                    at_once = min(room, READ_RECORDS)
                    batch = self._log.read(self._topic, offsets, at_once, self._only)
                    offsets = batch.next_offsets
                    if not len(batch):
                        left = 0
                        break
                    for records in batch.parts:
                        decoded.append(self._decoder.decode(records, load_seq))
                    room -= len(batch)
            yield Part(
                pa.Table.from_batches([part.rows for part in decoded]),
                pa.Table.from_batches([part.dead for part in decoded]),
                offsets,
            )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Decoding makes millions of objects and no cycles; looking for cycles
    among them takes a fifth of its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
