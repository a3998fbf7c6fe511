"""dbt Python models' inputs and outputs as Arrow, on either warehouse.

``relation`` is what ``dbt.ref`` returns (DuckDB's relation, Spark's data
frame); ``session`` is what dbt hands a Python model.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

BATCH_ROWS = 2048


def arrow(relation: Any) -> pa.Table:
    """All rows of ``relation``."""
    read = getattr(relation, "to_arrow_table", None) or relation.toArrow
    table: pa.Table = read()
    return table


def only_row(relation: Any) -> dict[str, Any]:
    """The row of a one-row ``relation``."""
    rows: list[dict[str, Any]] = arrow(relation).to_pylist()
    (row,) = rows
    return row


def batches(session: Any, relation: Any) -> pa.RecordBatchReader:
    """The rows of ``relation``, streamed.

    DuckDB reads on a cursor of its own: the model's connection is busy
    writing what the stream gives.
    """
    if hasattr(relation, "sql_query"):
        query = relation.sql_query()
        reader: pa.RecordBatchReader
        reader = session.cursor().sql(query).to_arrow_reader(BATCH_ROWS)
        return reader
    return arrow(relation).to_reader(BATCH_ROWS)


def frame(session: Any, rows: pa.Table | pa.RecordBatchReader) -> Any:
    """``rows`` as something a dbt Python model may return."""
    if hasattr(session, "cursor"):
        return rows
    if isinstance(rows, pa.RecordBatchReader):
        rows = rows.read_all()
    return session.createDataFrame(rows)


def previous(dbt: Any, session: Any) -> pa.Table | None:
    """What the model's own table holds from the run before, or None."""
    this = dbt.this
    name = f"{this.schema}.{this.identifier}"
    if hasattr(session, "cursor"):
        found = session.execute(
            "select count(*) from information_schema.tables "
            "where table_schema = ? and table_name = ?",
            [this.schema, this.identifier],
        ).fetchone()
        return arrow(session.sql(f"from {name}")) if found[0] else None
    exists = session.catalog.tableExists(name)
    return arrow(session.table(name)) if exists else None
