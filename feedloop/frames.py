"""dbt Python models' inputs and outputs as Arrow, on either warehouse.

``relation`` is what ``dbt.ref`` returns (DuckDB's relation, Spark's data
frame); ``session`` is what dbt hands a Python model.
"""

from __future__ import annotations

import importlib
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from feedloop.errors import SettingsError

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
    """The rows of ``relation``, streamed, BATCH_ROWS at most at a time.

    DuckDB reads on a cursor of its own: the model's connection is busy
    writing what the stream gives. Of Spark's, one partition is here at a time.
    """
    if hasattr(relation, "sql_query"):
        query = relation.sql_query()
        reader: pa.RecordBatchReader
        reader = session.cursor().sql(query).to_arrow_reader(BATCH_ROWS)
        return reader
    schema = arrow(relation.limit(0)).schema
    return pa.RecordBatchReader.from_batches(schema, _partitions(relation, schema))


def _partitions(relation: Any, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    # Spark iterates over rows only: here each holds a batch
    rows = relation.mapInArrow(_packed, "batch binary").toLocalIterator()
    for (packed,) in rows:
        with pa.ipc.open_stream(packed) as stream:
            for batch in stream:
                for start in range(0, len(batch), BATCH_ROWS):
                    yield batch.slice(start, BATCH_ROWS).cast(schema)


def _packed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        yield pa.record_batch({"batch": [sink.getvalue().to_pybytes()]})


def frame(session: Any, rows: pa.Table | pa.RecordBatchReader) -> Any:
    """``rows`` as something a dbt Python model may return."""
    if hasattr(session, "cursor"):
        return rows
    if isinstance(rows, pa.RecordBatchReader):
        rows = rows.read_all()
    return _data_frame(session, rows)


def _data_frame(session: Any, table: pa.Table) -> Any:
    # Spark reads no further than the first empty batch
    return session.createDataFrame(table.combine_chunks())


Trainer: TypeAlias = Callable[[Any, Any], pa.Table]
"""A model as a table, of what it learns from and its parameters."""


class Mapper(Protocol):
    """A pure function of batches, whose rows don't depend on one another, that
    a process of Spark's can be sent."""

    schema: pa.Schema

    def on_one_thread(self) -> Mapper: ...

    def __call__(
        self, batches: Iterable[pa.RecordBatch]
    ) -> Iterator[pa.RecordBatch]: ...


def mapped(session: Any, relation: Any, function: Mapper, first: pa.Table) -> Any:
    """``first`` and what ``function`` makes of ``relation``, as something a dbt
    Python model may return.

    DuckDB streams the rows through this process. Spark maps partitions, as many
    as a shuffle has, on its executors: none of the rows comes here.
    """
    if hasattr(session, "cursor"):
        made = function(batches(session, relation))
        everything = itertools.chain(first.to_batches(), made)
        return pa.RecordBatchReader.from_batches(function.schema, everything)
    before = _data_frame(session, first)
    on_worker = partial(_on_worker, uuid.uuid4().hex, function.on_one_thread())
    parts = int(session.conf.get("spark.sql.shuffle.partitions"))
    # with their number named, Spark doesn't join small ones into one
    spread = relation.repartition(parts)
    return before.unionByName(spread.mapInArrow(on_worker, before.schema))


def als(session: Any, engine: str, implicit: Trainer) -> Trainer:
    """What trains ALS on a relation: ``implicit``, here, or Spark's MLlib.

    Raises ``SettingsError`` where there is no such engine, or not on this
    warehouse.
    """
    if engine == "implicit":
        return lambda relation, params: implicit(arrow(relation), params)
    if engine != "mllib":
        raise SettingsError(
            f"als_engine is {engine!r}; give implicit, or mllib to train on Spark's "
            "executors."
        )
    if hasattr(session, "cursor"):
        raise SettingsError(
            "als_engine is mllib, which runs on Spark, and this warehouse is DuckDB: "
            "give als_engine: implicit, or build with --target spark."
        )
    # dbt-spark needn't be installed where it isn't asked for
    mllib = importlib.import_module("dbt.adapters.sparkpy.als")
    trainer: Trainer = mllib.train_item_factors
    return trainer


_functions: dict[str, Mapper] = {}
"""In a Python worker of Spark: the last run's function, with what it opened."""


def _on_worker(
    run: str, function: Mapper, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """A worker does one task after another: it opens a build for the first."""
    if run not in _functions:
        _functions.clear()
        _functions[run] = function
    return _functions[run](batches)


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
