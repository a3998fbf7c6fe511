"""The first of each ``event_id`` wins, in a batch and against the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import DataFile
from pyiceberg.table import FileScanTask, Table

from loaders.day_files import DayFiles
from loaders.event_index import EventIndex, Hashes, hashes_of

MICROSECOND = timedelta(microseconds=1)
DAY = timedelta(days=1)
INDEXED_AT_ONCE = 4_000_000
"""Events whose hashes are held in memory before they go to disk."""


@dataclass(frozen=True)
class Fresh:
    """Events that are to be stored, and the hash of each one's ``event_id``."""

    rows: pa.Table
    hashes: Hashes

    def only(self, kept: NDArray[np.bool_]) -> Fresh:
        if kept.all():
            return self
        return Fresh(self.rows.filter(pa.array(kept)), self.hashes[kept])


class Deduplicator:
    """Finds events that a table of events has already.

    A row is one that it has where the ``event_id`` was stored with an
    ``occurred_at`` at most ``horizon`` before or after the row's. What is known
    of the table's files is kept below ``folder``.
    """

    def __init__(self, folder: Path, horizon: timedelta) -> None:
        self._folder = folder
        self._horizon = horizon
        self._indexes: dict[str, EventIndex] = {}
        self._files = DayFiles()
        # files of the commit under way, which the table does not have yet
        self._uncommitted: dict[str, FileScanTask] = {}
        self._existing: set[str] = set()

    def begin(self) -> None:
        """Forget what was written for a commit that is over."""
        self._uncommitted = {}

    def fresh(self, table: Table, rows: pa.Table) -> Fresh:
        """``rows`` (EVENTS_SCHEMA) without what the log had before, or ``table``
        and what was remembered since ``begin``."""
        if not rows.num_rows:
            return Fresh(rows, np.empty(0, np.uint64))
        found = first_of_each(Fresh(rows, hashes_of(rows["event_id"])))
        tasks = self._within_horizon(table, found.rows) | self._uncommitted
        self._existing = set(tasks)
        index = self._index(table)
        self._catch_up(index, table, tasks)
        kept = np.ones(found.rows.num_rows, np.bool_)
        for path, positions in index.holders(found.hashes).items():
            if path in tasks:
                held = self._held(table, tasks[path], found.rows.take(positions))
                kept[positions[held]] = False
        return found.only(kept)

    def remember(self, table: Table, fresh: Fresh, files: Sequence[DataFile]) -> None:
        """Take over ``fresh``, which was just written to ``files``, one a day.

        What is not committed in the end is in no table, and then not asked for.
        """
        days = _days(fresh.rows)
        entries = {
            file.file_path: fresh.hashes[days == file.partition[0]] for file in files
        }
        self._uncommitted |= {file.file_path: FileScanTask(file) for file in files}
        self._existing |= entries.keys()
        self._index(table).add(entries, self._existing)

    def _index(self, table: Table) -> EventIndex:
        name = str(table.metadata.table_uuid)
        return self._indexes.setdefault(name, EventIndex(self._folder / name))

    def _within_horizon(self, table: Table, rows: pa.Table) -> dict[str, FileScanTask]:
        """The files that may hold one of ``rows``, by path.

        A stray event of years ago adds the days around it, not all between.
        """
        reach = -(-self._horizon // DAY)
        days = {
            near
            for day in np.unique(_days(rows)).tolist()
            for near in range(day - reach, day + reach + 1)
        }
        return self._files.of(table, days)

    def _catch_up(
        self, index: EventIndex, table: Table, tasks: dict[str, FileScanTask]
    ) -> None:
        """Read the ids of files that were not indexed yet.

        Again where another process, which looks at other days, has forgotten
        some meanwhile: what ``index.files`` then finds is what is searched.
        """
        while unknown := sorted(tasks.keys() - index.files()):
            entries: dict[str, Hashes] = {}
            for path in unknown:
                ids = _read(table, tasks[path], ())
                parts = [hashes_of(some["event_id"]) for some in ids]
                entries[path] = np.concatenate([np.empty(0, np.uint64), *parts])
                if sum(map(len, entries.values())) >= INDEXED_AT_ONCE:
                    index.add(entries, tasks)
                    entries = {}
            index.add(entries, tasks)

    def _held(
        self, table: Table, task: FileScanTask, rows: pa.Table
    ) -> NDArray[np.intp]:
        """The positions of those of ``rows`` that the file really holds."""
        ids = rows["event_id"].combine_chunks()
        times = _microseconds(rows)
        held: list[NDArray[np.intp]] = [np.empty(0, np.intp)]
        for stored in _read(table, task, ("occurred_at",)):
            matches = pc.index_in(stored["event_id"], value_set=ids)
            positions = matches.drop_null().to_numpy()
            if len(positions):
                found = stored.filter(matches.is_valid())
                apart = np.abs(_microseconds(found) - times[positions])
                held.append(positions[apart <= self._horizon // MICROSECOND])
        return np.unique(np.concatenate(held))


def first_of_each(fresh: Fresh) -> Fresh:
    """Those whose ``event_id`` the log did not have before.

    In a partition its order says what was before: clocks go back, and two
    collectors' clocks differ. Between partitions only the log's time can.
    """
    ascending = np.sort(fresh.hashes)
    repeated = np.unique(ascending[1:][ascending[1:] == ascending[:-1]])
    if not len(repeated):
        return fresh
    doubtful = np.flatnonzero(np.isin(fresh.hashes, repeated))
    columns = ["event_id", "ingested_at", "log_partition", "log_offset"]
    with duckdb.connect() as connection:
        batch = fresh.rows.select(columns).take(doubtful)
        positions = pa.array(doubtful, pa.int64())
        connection.register("batch", batch.append_column("position", positions))
        found = connection.execute(
            """
            with first_of_partition as (
                from batch qualify row_number() over (
                    partition by event_id, log_partition order by log_offset
                ) = 1
            )
            select position from first_of_partition
            qualify row_number() over (
                partition by event_id order by ingested_at, log_partition
            ) = 1
            """
        ).fetchnumpy()["position"]
    kept = np.ones(fresh.rows.num_rows, np.bool_)
    kept[doubtful] = False
    kept[found] = True
    return fresh.only(kept)


def _read(table: Table, task: FileScanTask, more: Sequence[str]) -> Iterator[pa.Table]:
    """The ``event_id`` and ``more`` of a file's rows, a part at a time."""
    schema = table.schema().select("event_id", *more)
    scan = ArrowScan(table.metadata, table.io, schema, AlwaysTrue())
    for batch in scan.to_record_batches([task]):
        yield pa.Table.from_batches([batch])


def _microseconds(rows: pa.Table) -> NDArray[np.int64]:
    found: NDArray[np.int64] = rows["occurred_at"].cast(pa.int64()).to_numpy()
    return found


def _days(rows: pa.Table) -> NDArray[np.int64]:
    return _microseconds(rows) // (DAY // MICROSECOND)
