"""The comparison of warehouses sees what it is there to see."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from tests.support.parity import differences

AT = datetime(2026, 1, 8, tzinfo=UTC)
ROWS = [
    {"id": "a", "at": AT, "score": 0.1, "names": ["x", "y"], "values": [1.0, None]},
    {"id": "b", "at": None, "score": None, "names": None, "values": [0.3]},
]


def changed(**values: Any) -> pa.Table:
    return pa.Table.from_pylist([ROWS[0] | values, ROWS[1]])


def told(found: pa.Table) -> list[str]:
    return list(differences(pa.Table.from_pylist(ROWS), found))


@pytest.mark.parametrize(
    "found",
    [
        pa.Table.from_pylist(ROWS[::-1]),
        changed(score=0.1 * (1 + 1e-12)),
        changed(values=[1 - 1e-12, None]),
        changed(at=AT.replace(tzinfo=None)).select(
            ["values", "names", "score", "at", "id"]
        ),
    ],
)
def test_order_and_the_last_bits_are_no_difference(found: pa.Table) -> None:
    assert told(found) == []


@pytest.mark.parametrize(
    "change",
    [
        {"id": "c"},
        {"at": None},
        {"score": 0.1 + 1e-8},
        {"score": None},
        {"names": ["y", "x"]},
        {"names": ["x"]},
        {"values": [1.0, 1.0]},
    ],
)
def test_a_value_that_differs_is_told(change: dict[str, Any]) -> None:
    assert told(changed(**change))


def test_a_row_or_a_column_that_is_not_there_is_told() -> None:
    every = pa.Table.from_pylist(ROWS)
    assert told(every.slice(1)) and told(every.drop_columns("id"))
    assert told(pa.concat_tables([every, every.slice(0, 1)]))
