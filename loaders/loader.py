"""One micro-batch from the log into Iceberg, exactly once.

A crash between any two steps loses nothing and stores nothing twice, because
the offsets to go on from are part of the commit, and whoever starts again
reads them from the table and not from the log.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from feedloop.clock import Clock
from feedloop.contracts.log import EVENTS, ITEMS, USERS, EventLog, Records
from feedloop.contracts.tables import DEAD_LETTERS
from feedloop.errors import TablesUnavailable
from feedloop.settings import Settings
from loaders.decode import decoder
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

# so that whoever reads the tables meanwhile finds an event's item and user
CATALOGUE_FIRST = (ITEMS, USERS, EVENTS)
READ_RECORDS = 50_000
PART_RECORDS = 200_000

Offsets = Mapping[int, int]


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
        ``LogUnavailable`` or ``TablesUnavailable``. Whatever it raises, calling
        it again is safe.
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
        for rows, dead, following in self._parts(offsets, load_seq):
            read.offsets = following
            read.rows += rows.num_rows
            read.dead += dead.num_rows
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
            newest=_newest(rows, dead),
        )

    def _open(self, name: str) -> Table:
        return open_table(self._catalog, self._settings, name)

    def _parts(
        self, offsets: Offsets, load_seq: int
    ) -> Iterator[tuple[pa.Table, pa.Table, Offsets]]:
        """Rows, dead letters, and the offsets after them."""
        left = self._settings.load_max_events
        while left > 0:
            # an empty one, so that there is a schema where there are no records
            decoded = [self._decoder.decode(Records.of([]), load_seq)]
            room = min(left, PART_RECORDS)
            left -= room
            with _no_garbage_collection():
                while room > 0:
                    most = min(room, READ_RECORDS)
                    batch = self._log.read(self._topic, offsets, most)
                    offsets = batch.next_offsets
                    if not len(batch):
                        left = 0
                        break
                    for records in batch.parts:
                        decoded.append(self._decoder.decode(records, load_seq))
                    room -= len(batch)
            yield (
                pa.Table.from_batches([part.rows for part in decoded]),
                pa.Table.from_batches([part.dead for part in decoded]),
                offsets,
            )

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


def _newest(*parts: pa.Table) -> datetime | None:
    times = [pc.max(part["ingested_at"]).as_py() for part in parts if part.num_rows]
    return max(times, default=None)


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
