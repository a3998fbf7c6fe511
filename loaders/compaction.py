"""Small files into fewer, sorted ones, beside loaders that go on appending.

A partition's small files are read, sorted (DuckDB spills to disk what does not
fit into its memory) and written anew, and one commit then exchanges them. It
says nothing of rows: the same ones are there before and after. Offsets are
carried over from the head of each attempt, so that a loader's fence passes and
snapshot expiry finds them on the head.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import (
    ArrowScan,
    parquet_file_to_data_file,
    schema_to_pyarrow,
)
from pyiceberg.manifest import DataFile
from pyiceberg.table import FileScanTask, Table
from pyiceberg.typedef import Record

from feedloop.errors import Fenced, MaintenanceFailed
from loaders.iceberg import FencedRewrite, OffsetsKept

ROW_GROUP_ROWS = 122_880
ROW_GROUP_BYTES = 64 << 20
SORTED_ROWS = 2048
"""Come out of the sort at once: a row of the feature log may have 30 KB."""
SORT_MEMORY = "384MB"
ATTEMPTS = 5
COMMIT_BYTES = 256 << 20
"""Files of this many bytes together are exchanged in one commit."""


@dataclass(frozen=True)
class CompactionPolicy:
    """Sizes in bytes.

    Files under half of ``target_bytes`` are small. A partition with
    ``min_files`` of them is due, and is rewritten at most ``bin_bytes`` at a
    time into files of about ``target_bytes``.
    """

    target_bytes: int
    min_files: int = 5
    bin_bytes: int = 1 << 30

    def is_small(self, file: DataFile) -> bool:
        return file.file_size_in_bytes * 2 < self.target_bytes


@dataclass(frozen=True)
class Compacted:
    """What compaction did to a table: files, and their bytes."""

    files_before: int = 0
    files_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0


Bin = Sequence[FileScanTask]


def due(table: Table, policy: CompactionPolicy) -> list[Bin]:
    """The groups of files to rewrite, each of one partition, oldest first."""
    partitions: dict[tuple[Any, ...], list[FileScanTask]] = {}
    for task in table.scan().plan_files():
        # files of a partition spec of old stay: they'd have to be split
        if task.file.spec_id == table.spec().spec_id and policy.is_small(task.file):
            key = _values(task.file.partition)
            partitions.setdefault(key, []).append(task)
    return [
        part
        for key in sorted(partitions, key=repr)
        if len(partitions[key]) >= policy.min_files
        for part in _bins(partitions[key], policy.bin_bytes)
    ]


def _values(partition: Record) -> tuple[Any, ...]:
    return tuple(partition[position] for position in range(len(partition)))


def _bins(tasks: Sequence[FileScanTask], most: int) -> Iterator[Bin]:
    found: list[FileScanTask] = []
    size = 0
    for task in sorted(tasks, key=lambda one: one.file.file_path):
        if found and size + task.file.file_size_in_bytes > most:
            yield found
            found, size = [], 0
        found.append(task)
        size += task.file.file_size_in_bytes
    yield found


def compact(
    open_table: Callable[[], Table],
    sort_by: Sequence[str],
    policy: CompactionPolicy,
    go_on: Callable[[], bool] = lambda: True,
) -> Compacted:
    """Rewrite what is due.

    ``go_on`` is asked before each group of files; what was rewritten by then is
    committed. Raises ``Fenced`` where others keep rewriting the same files and
    ``MaintenanceFailed`` where the files can't be read, sorted or written; both
    leave the table as it is.
    """
    total = Compacted()
    for attempt in range(1, ATTEMPTS + 1):
        table = open_table()
        try:
            for one in _compact_once(table, sort_by, policy, go_on):
                total = _sum(total, one)
            break
        except Fenced:
            # most likely another compaction, which leaves nothing to do
            if attempt == ATTEMPTS:
                raise
    return total


def _compact_once(
    table: Table,
    sort_by: Sequence[str],
    policy: CompactionPolicy,
    go_on: Callable[[], bool],
) -> Iterator[Compacted]:
    pending: list[tuple[list[DataFile], list[DataFile]]] = []
    size = 0
    for part in due(table, policy):
        if not go_on():
            break
        old = [task.file for task in part]
        pending.append((old, _rewrite(table, part, sort_by, policy)))
        size += sum(file.file_size_in_bytes for file in old)
        if size >= COMMIT_BYTES:
            yield _exchange(table, pending)
            table.refresh()
            pending, size = [], 0
    if pending:
        yield _exchange(table, pending)


def _exchange(
    table: Table, pending: Sequence[tuple[list[DataFile], list[DataFile]]]
) -> Compacted:
    rewrite = FencedRewrite(table)
    for old, new in pending:
        rewrite.replace(old, new)
    rewrite.commit(OffsetsKept())
    before = [file.file_size_in_bytes for old, _ in pending for file in old]
    after = [file.file_size_in_bytes for _, new in pending for file in new]
    return Compacted(len(before), len(after), sum(before), sum(after))


def _sum(one: Compacted, other: Compacted) -> Compacted:
    return Compacted(
        one.files_before + other.files_before,
        one.files_after + other.files_after,
        one.bytes_before + other.bytes_before,
        one.bytes_after + other.bytes_after,
    )


def _rewrite(
    table: Table, part: Bin, sort_by: Sequence[str], policy: CompactionPolicy
) -> list[DataFile]:
    """The rows of ``part`` in new files, which nobody sees yet."""
    folder = part[0].file.file_path.rpartition("/")[0]
    expected = 0
    try:
        with _Writer(table, folder, policy.target_bytes) as writer:
            for rows in _row_groups(_sorted(table, part, sort_by)):
                expected += rows.num_rows
                writer.write(rows)
    except (OSError, duckdb.Error, pa.ArrowException) as error:
        raise MaintenanceFailed(
            f"The files of {'.'.join(table.name())} can't be rewritten "
            f"({str(error).splitlines()[0]}); the table is as it was: mend that "
            "and run `feedloop maintain` again."
        ) from error
    _check_rows(table, part, writer.files, expected)
    return writer.files


def _check_rows(
    table: Table, part: Bin, written: Sequence[DataFile], expected: int
) -> None:
    """Never exchange files for others with more or fewer rows."""
    stored = sum(file.record_count for file in written)
    plain = all(not task.delete_files for task in part)
    listed = sum(task.file.record_count for task in part)
    if stored != expected or (plain and stored != listed):
        raise MaintenanceFailed(
            f"Files of {'.'.join(table.name())} with {listed} rows came out with "
            f"{stored}, which must not be; nothing was exchanged. Please report "
            "it with the versions that `pip freeze` prints."
        )


def _sorted(
    table: Table, part: Bin, sort_by: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    order = ", ".join(f'"{name}"' for name in sort_by)
    with (
        tempfile.TemporaryDirectory(prefix="feedloop-sort-") as spill,
        duckdb.connect() as connection,
    ):
        connection.execute("set TimeZone = 'UTC'")
        connection.execute(f"set memory_limit = '{SORT_MEMORY}'")
        # What several threads hold at once can't be spilled, and they'd gain
        # little: most of the time goes into reading and writing Parquet.
        connection.execute("set threads = 1")
        connection.execute(f"set temp_directory = '{spill}'")
        connection.register("unsorted", _rows(table, part))
        query = f"from unsorted order by {order}"
        yield from connection.sql(query).to_arrow_reader(SORTED_ROWS)


def _rows(table: Table, part: Bin) -> pa.RecordBatchReader:
    """All rows of ``part``, a file at a time, as the table's schema is now."""
    scan = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())
    schema = schema_to_pyarrow(table.schema(), include_field_ids=False)
    batches = (
        same
        for task in part
        for batch in scan.to_record_batches([task])
        for same in pa.Table.from_batches([batch]).cast(schema).to_batches()
    )
    return pa.RecordBatchReader.from_batches(schema, batches)


def _row_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """``batches``, put together to what is worth a row group."""
    found: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        found.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if rows >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
            yield pa.Table.from_batches(found)
            found, rows, size = [], 0, 0
    if rows:
        yield pa.Table.from_batches(found)


class _Writer:
    """Parquet files of about ``target_bytes`` in ``folder``, a row group at a
    time, so that memory does not grow with their size."""

    def __init__(self, table: Table, folder: str, target_bytes: int) -> None:
        self.files: list[DataFile] = []
        self._table = table
        self._folder = folder
        self._schema = schema_to_pyarrow(table.schema())
        self._target = target_bytes
        self._name = uuid.uuid4()
        self._count = 0
        self._path = ""
        self._stream: Any = None
        self._parquet: pq.ParquetWriter | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._finish()
        elif self._stream is not None:
            self._stream.close()

    def write(self, rows: pa.Table) -> None:
        if self._parquet is None:
            self._parquet = self._begin()
        self._parquet.write_table(rows.cast(self._schema), ROW_GROUP_ROWS)
        if self._stream.tell() >= self._target:
            self._finish()

    def _begin(self) -> pq.ParquetWriter:
        self._path = f"{self._folder}/{self._count:05d}-{self._name}-compacted.parquet"
        self._count += 1
        self._stream = self._table.io.new_output(self._path).create()
        codec = self._table.properties["write.parquet.compression-codec"]
        return pq.ParquetWriter(self._stream, self._schema, compression=codec)

    def _finish(self) -> None:
        if self._parquet is None:
            return
        self._parquet.close()
        self._stream.close()
        self._parquet = self._stream = None
        self.files.append(
            parquet_file_to_data_file(self._table.io, self._table.metadata, self._path)
        )
