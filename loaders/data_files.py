"""Rows as Parquet files of their partitions.

pyiceberg writes files that say the same; it filters all rows once for each
partition, and spends on that as much as on the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import parquet_file_to_data_file, schema_to_pyarrow
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.locations import load_location_provider
from pyiceberg.typedef import Record

DAY_US = 86_400_000_000
SAMPLE_ROWS = 1000
"""From as many a column's dictionary is judged: worth it where values repeat."""


def write_files(
    table: Table, rows: pa.Table, write_id: UUID, first_number: int
) -> list[DataFile]:
    """Write ``rows``, one file for each partition; nobody sees them yet.

    The table has no partitions or those of a timestamp's days. Files are
    numbered from ``first_number`` on, within ``write_id``.
    """
    if not rows.num_rows:
        return []
    schema = schema_to_pyarrow(table.schema())
    locations = load_location_provider(table.location(), table.properties)
    files = []
    for number, (folder, part) in enumerate(_partitions(table, rows), first_number):
        name = f"{folder}00000-{number}-{write_id}.parquet"
        path = locations.new_data_location(name)
        with (
            table.io.new_output(path).create() as stream,
            pq.ParquetWriter(
                stream,
                schema,
                compression=table.properties["write.parquet.compression-codec"],
                use_dictionary=_repeating(part),
            ) as writer,
        ):
            writer.write_table(part.select(schema.names).cast(schema))
        files.append(parquet_file_to_data_file(table.io, table.metadata, path))
    return files


def _partitions(table: Table, rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each partition, and its folder."""
    spec = table.spec()
    if spec.is_unpartitioned():
        yield "", rows
        return
    (field,) = spec.fields
    column = table.schema().find_column_name(field.source_id)
    days = rows[column].cast(pa.int64()).to_numpy() // DAY_US
    order = np.argsort(days, kind="stable")
    together = rows.combine_chunks().take(pa.array(order))
    found, starts = np.unique(days[order], return_index=True)
    ends = np.append(starts[1:], len(days))
    for day, start, end in zip(found.tolist(), starts, ends, strict=True):
        folder = spec.partition_to_path(Record(day), table.schema())
        yield f"{folder}/", together.slice(start, end - start)


def _repeating(rows: pa.Table) -> list[str]:
    sample = rows.slice(0, SAMPLE_ROWS)
    return [
        name
        for name in rows.column_names
        if not pa.types.is_nested(rows.schema.field(name).type)
        and pc.count_distinct(sample[name]).as_py() * 2 <= sample.num_rows
    ]
