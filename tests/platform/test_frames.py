"""Frames on Spark: no row is lost on the way in, none is made on the driver."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from feedloop import frames
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
