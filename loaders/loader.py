"""One micro-batch from the log into Iceberg, exactly once.

A crash between any two steps loses nothing and stores nothing twice, because
the offsets to go on from are part of the commit, and whoever starts again
reads them from the table and not from the log.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from feedloop.clock import Clock
from feedloop.contracts.log import EVENTS, ITEMS, USERS, EventLog, Records
from feedloop.contracts.tables import DEAD_LETTERS
from feedloop.settings import Settings
from loaders.decode import Decoded, decoder
from loaders.dedupe import Deduplicator, Fresh
from loaders.iceberg import (
    FencedAppend,
    OffsetFence,
    Position,
    committed,
    ensure_tables,
    open_catalog,
    open_table,
)
from loaders.log import open_log
from loaders.losses import refuse

# so that whoever reads the tables meanwhile finds an event's item and user
CATALOGUE_FIRST = (ITEMS, USERS, EVENTS)
READ_RECORDS = 50_000
WRITE_ROWS = 250_000

Offsets = Mapping[int, int]


@dataclass(frozen=True)
class LoadReport:
    """What one batch did. ``load_seq`` is None where there was nothing new."""

    stream: str
    rows: int
    dead_letters: int
    duplicates: int
    offsets_from: Offsets
    offsets_to: Offsets
    load_seq: int | None

    @property
    def records(self) -> int:
        return self.rows + self.dead_letters + self.duplicates


class Loader:
    """Loads one stream. The raw tables must exist (``ensure_tables``)."""

    def __init__(
        self, settings: Settings, catalog: Catalog, log: EventLog, stream: str
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._log = log
        self._stream = stream
        self._topic = settings.topic(stream)
        self._decoder = decoder(stream, settings)
        horizon = timedelta(days=settings.dedupe_horizon_days)
        self._dedupe = Deduplicator(settings.dedupe_dir, horizon)

    def catch_up(self) -> Iterator[LoadReport]:
        """Batch after batch, up to where the log ends now."""
        state = self._log.state(self._topic)
        end = state.end if state is not None else {}
        while True:
            report = self.load_once()
            if report.load_seq is not None:
                yield report
            behind = any(report.offsets_to.get(p, 0) < at for p, at in end.items())
            if report.load_seq is None or not behind:
                return

    def load_once(self) -> LoadReport:
        """Load one batch of at most ``load_max_events`` records.

        Raises ``Fenced`` where another loader was faster, ``TopicRecreated``
        and ``OffsetsLost`` where going on would lose records, and
        ``LogUnavailable``. Whatever it raises, calling it again is safe.
        """
        # 1. Where this table says that it was loaded up to.
        table = self._open(self._stream)
        dead_table = self._open(DEAD_LETTERS)
        start = committed(table.metadata).get(self._stream)
        dead_start = committed(dead_table.metadata).get(self._stream)

        # 2. The log must be the same and still have what comes next.
        state = self._log.state(self._topic)
        refuse(self._settings, self._stream, state, start)
        if state is None:
            return self._nothing({})
        offsets: Offsets = start.offsets if start else state.beginning

        # 3. Read and decode up to the limit; only Arrow stays in memory.
        load_seq = start.load_seq + 1 if start else 1
        batches, following = self._read(offsets, load_seq)
        rows = pa.Table.from_batches([decoded.rows for decoded in batches])
        dead = pa.Table.from_batches([decoded.dead for decoded in batches])
        if not rows.num_rows and not dead.num_rows:
            return self._nothing(offsets)
        end = Position(state.topic_id, load_seq, dict(following))

        # 4. The first of each event_id, in this batch and in the table.
        fresh = self._dedupe.fresh(table, rows) if self._stream == EVENTS else None
        stored = fresh.rows if fresh is not None else rows

        # 5. Dead letters, with offsets of their own: when step 6 fails and the
        #    batch is read again, those below them are not written twice.
        told = (
            dead_start if dead_start and dead_start.topic_id == end.topic_id else None
        )
        new_dead = _not_below(dead, told)
        if new_dead.num_rows:
            fence = OffsetFence(self._stream, dead_start, _furthest(end, told))
            _commit(dead_table, new_dead, fence)

        # 6. The rows and the offsets, in one commit, unless someone was faster.
        files = _commit(table, stored, OffsetFence(self._stream, start, end))
        if fresh is not None:
            self._dedupe.remember(table, _of_each_write(fresh, files))
        return LoadReport(
            stream=self._stream,
            rows=stored.num_rows,
            dead_letters=dead.num_rows,
            duplicates=rows.num_rows - stored.num_rows,
            offsets_from=offsets,
            offsets_to=following,
            load_seq=load_seq,
        )

    def _open(self, name: str) -> Table:
        return open_table(self._catalog, self._settings, name)

    def _read(self, offsets: Offsets, load_seq: int) -> tuple[list[Decoded], Offsets]:
        left = self._settings.load_max_events
        # an empty one, so that there is a schema where there are no records
        decoded = [self._decoder.decode(Records.of([]), load_seq)]
        with _no_garbage_collection():
            while left > 0:
                batch = self._log.read(self._topic, offsets, min(left, READ_RECORDS))
                offsets = batch.next_offsets
                if not len(batch):
                    break
                for records in batch.parts:
                    decoded.append(self._decoder.decode(records, load_seq))
                left -= len(batch)
        return decoded, offsets

    def _nothing(self, offsets: Offsets) -> LoadReport:
        return LoadReport(self._stream, 0, 0, 0, offsets, offsets, None)


def load_all(
    settings: Settings,
    clock: Clock,
    *,
    on_batch: Callable[[LoadReport], None] | None = None,
) -> list[LoadReport]:
    """Load every stream up to where the log ends now; one report a batch.

    Creates the raw tables where there are none yet. ``on_batch`` hears of each
    batch once it is committed. Raises as ``Loader.load_once`` does.
    """
    catalog = open_catalog(settings)
    ensure_tables(catalog, settings)
    reports: list[LoadReport] = []
    with closing(open_log(settings, clock)) as log:
        for stream in CATALOGUE_FIRST:
            for report in Loader(settings, catalog, log, stream).catch_up():
                reports.append(report)
                if on_batch is not None:
                    on_batch(report)
    return reports


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


def _furthest(end: Position, told: Position | None) -> Position:
    """``end``, or ``told`` in the partitions where an earlier try got further."""
    if told is None:
        return end
    partitions = end.offsets.keys() | told.offsets.keys()
    offsets = {
        p: max(end.offsets.get(p, 0), told.offsets.get(p, 0)) for p in partitions
    }
    return Position(end.topic_id, end.load_seq, offsets)


def _not_below(dead: pa.Table, start: Position | None) -> pa.Table:
    """The dead letters that a commit which got no further did not write."""
    if start is None:
        return dead
    partitions = dead["log_partition"].to_pylist()
    offsets = dead["log_offset"].to_pylist()
    new = [
        offset >= start.offsets.get(partition, 0)
        for partition, offset in zip(partitions, offsets, strict=True)
    ]
    return dead.filter(pa.array(new, pa.bool_()))


def _commit(table: Table, rows: pa.Table, fence: OffsetFence) -> list[list[DataFile]]:
    """Commit ``rows``; the files of each ``WRITE_ROWS`` of them."""
    append = FencedAppend(table)
    files = [
        append.add(rows.slice(first, WRITE_ROWS))
        for first in range(0, rows.num_rows, WRITE_ROWS)
    ]
    append.commit(fence)
    return files


def _of_each_write(
    fresh: Fresh, files: Sequence[Sequence[DataFile]]
) -> Iterator[tuple[Fresh, Sequence[DataFile]]]:
    for number, written in enumerate(files):
        first = number * WRITE_ROWS
        part = slice(first, first + WRITE_ROWS)
        yield Fresh(fresh.rows.slice(first, WRITE_ROWS), fresh.hashes[part]), written
