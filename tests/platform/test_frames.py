"""Frames on Spark: no row is lost on the way in, none is made on the driver."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from feedloop import frames
from feedloop.errors import SettingsError
from feedloop.settings import from_environment
from tests.support.counting import Counting
from tests.support.on_spark import Spark


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spark]:
    home = str(tmp_path_factory.mktemp("spark"))
    spark = Spark(from_environment({}, home=home, namespace="t1"))
    try:
        yield spark
    finally:
        spark.stop()


def kept_by_a_frame(session: Any) -> list[int]:
    one, none, two = (pa.table({"x": pa.array(x, pa.int64())}) for x in ([1], [], [2]))
    frame = frames.frame(session, pa.concat_tables([one, none, two]))
    return sorted(frame.toArrow()["x"].to_pylist())


def test_rows_after_an_empty_batch_are_kept(spark: Spark) -> None:
    assert spark.call(kept_by_a_frame) == [1, 2]


def streamed_nothing(session: Any) -> pa.Table:
    return frames.batches(session, session.range(0)).read_all()


def streamed_on(session: Any) -> tuple[pa.Table, list[int]]:
    rows = session.range(5000).selectExpr(
        "id", "timestamp_seconds(id) as at", "array(cast(id as float)) as vector"
    )
    spread = rows.repartitionByRange(3, "id").sortWithinPartitions("id")
    reader = frames.batches(session, spread)
    batches = list(reader)
    table = pa.Table.from_batches(batches, reader.schema)
    return table, [len(batch) for batch in batches]


def test_rows_are_streamed_in_their_order(spark: Spark) -> None:
    table, sizes = spark.call(streamed_on)
    assert table["id"].to_pylist() == list(range(5000))
    assert len(sizes) >= 3 and max(sizes) <= frames.BATCH_ROWS
    assert table.schema.field("at").type == pa.timestamp("us", "UTC")


def test_nothing_streams_as_nothing(spark: Spark) -> None:
    assert spark.call(streamed_nothing).num_rows == 0


def mapped_on(session: Any) -> tuple[int, list[dict[str, Any]]]:
    """The process that asks, and rows that say where each was made."""
    session.conf.set("spark.sql.shuffle.partitions", "6")
    before = pa.table([[-1], [0], [0]], schema=Counting.schema)
    made = frames.mapped(session, session.range(1000), Counting(), before)
    return os.getpid(), made.toArrow().to_pylist()


def test_a_function_is_mapped_by_workers_that_keep_it(spark: Spark) -> None:
    driver, made = spark.call(mapped_on)
    assert sorted(row["id"] for row in made) == list(range(-1, 1000))
    tasks: dict[int, set[int]] = {}
    for row in made:
        if row["id"] >= 0:
            tasks.setdefault(row["process"], set()).add(row["tasks"])
    assert driver not in tasks
    # what a worker opened for its first task is there for the next
    assert all(done == set(range(len(done))) for done in tasks.values())
    assert sum(map(len, tasks.values())) == 6


@pytest.mark.parametrize(
    ("engine", "sentence"),
    [("mllib", "this warehouse is DuckDB"), ("als", "als_engine is 'als'; give")],
)
def test_an_engine_that_is_not_there_is_refused(engine: str, sentence: str) -> None:
    with duckdb.connect() as session, pytest.raises(SettingsError, match=sentence):
        frames.als(session, engine, lambda _, __: pa.table({}))
