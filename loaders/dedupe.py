"""The first of each ``event_id`` wins, in a batch and against the table."""

from __future__ import annotations

from datetime import timedelta

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.table import Table


def first_of_each(rows: pa.Table) -> pa.Table:
    """``rows`` (EVENTS_SCHEMA) without those whose ``event_id`` the log had before.

    In a partition its order says what was before: clocks go back, and two
    collectors' clocks differ. Between partitions only the log's time can.
    """
    ids = rows["event_id"]
    if pc.count_distinct(ids).as_py() == len(ids):
        return rows
    batch = rows.select(["event_id", "ingested_at", "log_partition", "log_offset"])
    return _take(
        rows,
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
        """,
        batch=batch.append_column("position", _positions(rows)),
    )


def not_yet_in(table: Table, rows: pa.Table, horizon: timedelta) -> pa.Table:
    """``rows`` without those whose ``event_id`` is in ``table``.

    The table is searched from ``horizon`` before the first ``occurred_at`` of
    the rows to ``horizon`` after the last; its ids are streamed, so that memory
    does not grow with it.
    """
    bounds = pc.min_max(rows["occurred_at"]).as_py()
    first = (bounds["min"] - horizon).isoformat()
    last = (bounds["max"] + horizon).isoformat()
    scan = table.scan(
        row_filter=f"occurred_at >= '{first}' and occurred_at <= '{last}'",
        selected_fields=("event_id",),
    )
    if not any(True for _ in scan.plan_files()):
        return rows
    ids = rows.select(["event_id"])
    return _take(
        rows,
        "select position from batch anti join stored using (event_id)",
        batch=ids.append_column("position", _positions(rows)),
        stored=scan.to_arrow_batch_reader(),
    )


def _positions(rows: pa.Table) -> pa.Array:
    return pa.array(range(rows.num_rows), pa.int64())


def _take(
    rows: pa.Table, query: str, **relations: pa.Table | pa.RecordBatchReader
) -> pa.Table:
    """The rows at the ``position`` that ``query`` selects, in their order."""
    with duckdb.connect() as connection:
        for name, relation in relations.items():
            connection.register(name, relation)
        found = connection.execute(query).to_arrow_table()["position"]
    if len(found) == rows.num_rows:
        return rows
    kept = pc.is_in(_positions(rows), value_set=found.combine_chunks())
    return rows.filter(kept)
