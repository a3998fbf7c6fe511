"""One micro-batch from the log into Iceberg, exactly once.

A crash between any two steps loses nothing and stores nothing twice, because
the offsets to go on from are part of the commit, and whoever starts again
reads them from the table and not from the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from feedloop.clock import Clock
from feedloop.contracts.log import EVENTS, ITEMS, USERS, ReadableLog
from feedloop.contracts.tables import DEAD_LETTERS
from feedloop.errors import TablesUnavailable
from feedloop.settings import Settings
from loaders.dedupe import Deduplicator
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
from loaders.readers import Readers
from loaders.reading import Offsets, PartReader, Reading

# so that whoever reads the tables meanwhile finds an event's item and user
CATALOGUE_FIRST = (ITEMS, USERS, EVENTS)


@dataclass(frozen=True)
class LoadReport:
    """What one batch did. ``load_seq`` is None where there was nothing new,
    ``newest`` the log's time of the newest record."""

    stream: str
    rows: int
    dead_letters: int
    duplicates: int
    offsets_from: Offsets
    offsets_to: Offsets
    load_seq: int | None
    newest: datetime | None = None

    @property
    def records(self) -> int:
        return self.rows + self.dead_letters + self.duplicates


@dataclass
class _Progress:
    """What was read of a batch, and the offsets to go on from."""

    offsets: Offsets
    rows: int = 0
    dead: int = 0
    newest: datetime | None = None


class Loader:
    """Loads one stream. The raw tables must exist (``ensure_tables``).

    It reads ``log`` by itself where it is given no ``reading``.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        log: ReadableLog,
        stream: str,
        reading: Reading | None = None,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._log = log
        self._stream = stream
        self._topic = settings.topic(stream)
        self._reading = reading or PartReader(settings, log, stream)
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
        ``LogUnavailable``, ``ReaderLost`` or ``TablesUnavailable``. Whatever it
        raises, calling it again is safe.
        """
        try:
            return self._load_once()
        except OSError as error:
            table = f"{self._settings.raw_schema}.{self._stream}"
            raise TablesUnavailable(
                f"{table} can't be read or written ({error}), and this batch was "
                "left out; free space or mend that, and load again: it goes on "
                "from there."
            ) from error

    def _load_once(self) -> LoadReport:
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

        # 3. Read and decode, take the first of each event_id, write files: a
        #    part at a time, so that memory does not grow with the batch.
        #    Nobody sees the files yet. Dead letters have offsets of their own:
        #    those that a try which got no further has stored are left out.
        load_seq = start.load_seq + 1 if start else 1
        told = dead_start
        if told is not None and told.topic_id != state.topic_id:
            told = None
        append, dead_append = FencedAppend(table), FencedAppend(dead_table)
        read = _Progress(offsets)
        self._dedupe.begin()
        most = self._settings.load_max_events
        for rows, dead, following in self._reading.parts(offsets, load_seq, most):
            read.offsets = following
            read.rows += rows.num_rows
            read.dead += dead.num_rows
            read.newest = _newest(read.newest, rows, dead)
            dead_append.add(_not_below(dead, told))
            self._store(append, table, rows)
        if not read.rows and not read.dead:
            return self._nothing(offsets)
        end = Position(state.topic_id, load_seq, dict(read.offsets))

        # 4. Dead letters first: when step 5 fails and the batch is read again,
        #    those below their offsets are not written twice.
        if dead_append.rows:
            fence = OffsetFence(self._stream, dead_start, _furthest(end, told))
            dead_append.commit(fence)

        # 5. The rows and the offsets, in one commit, unless someone was faster.
        append.commit(OffsetFence(self._stream, start, end))
        return LoadReport(
            stream=self._stream,
            rows=append.rows,
            dead_letters=read.dead,
            duplicates=read.rows - append.rows,
            offsets_from=offsets,
            offsets_to=read.offsets,
            load_seq=load_seq,
            newest=read.newest,
        )

    def _open(self, name: str) -> Table:
        return open_table(self._catalog, self._settings, name)

    def _store(self, append: FencedAppend, table: Table, rows: pa.Table) -> None:
        if self._stream == EVENTS:
            fresh = self._dedupe.fresh(table, rows)
            self._dedupe.remember(table, fresh, append.add(fresh.rows))
        else:
            append.add(rows)

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
            with closing(Readers(settings, log, stream)) as readers:
                loader = Loader(settings, catalog, log, stream, readers)
                for report in loader.catch_up():
                    reports.append(report)
                    if on_batch is not None:
                        on_batch(report)
    return reports


def _newest(before: datetime | None, *parts: pa.Table) -> datetime | None:
    times = [pc.max(part["ingested_at"]).as_py() for part in parts if part.num_rows]
    return max(times if before is None else [before, *times], default=None)


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
