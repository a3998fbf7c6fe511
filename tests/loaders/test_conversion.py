"""What a value of a file becomes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from loaders.conversion import convert, to_time
from loaders.mapping import Kind

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-05T12:00:00Z",
        "2026-01-05 12:00:00",
        "2026-01-05T14:30:00+02:30",
        1767614400,
        1767614400.0,
        "1767614400",
        "1767614400.000",
        Decimal("1767614400"),
        1767614400_000,
        "1767614400000",
        1767614400_000_000,
        datetime(2026, 1, 5, 12),
        datetime.fromisoformat("2026-01-05T09:00:00-03:00"),
    ],
)
def test_one_instant_in_many_spellings(value: Any) -> None:
    assert to_time(value, None) == NOON


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_the_unit_that_is_said(unit: str) -> None:
    micros = {"s": 1_000_000, "ms": 1000, "us": 1}[unit]
    assert to_time(12_345, unit) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
        microseconds=12_345 * micros
    )


@pytest.mark.parametrize(
    "value", ["", "yesterday", "05/01/2026", True, "9" * 20, float("nan"), 1e300, []]
)
def test_what_is_no_time_stays_what_it_is(value: Any) -> None:
    assert to_time(value, None) is value


def test_microseconds_are_kept() -> None:
    at = NOON + timedelta(microseconds=123_456)
    assert to_time("1767614400.123456", None) == at
    assert to_time(1767614400_123_456, None) == at
    assert to_time(1767614400.123456, None) == at


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (Kind.TEXT, 2**60 + 1, str(2**60 + 1)),
        (Kind.TEXT, 3.0, "3"),
        (Kind.TEXT, 3.5, 3.5),
        (Kind.TEXT, True, True),
        (Kind.NUMBER, "4", 4.0),
        (Kind.NUMBER, "nan", "nan"),
        (Kind.NUMBER, "1_0", "1_0"),
        (Kind.INTEGER, "3", 3),
        (Kind.INTEGER, "3.5", "3.5"),
        (Kind.BOOLEAN, "true", True),
        (Kind.BOOLEAN, "maybe", "maybe"),
        (Kind.LIST, "a | b|", ["a", "b"]),
        (Kind.LIST, '["a|b"]', ["a|b"]),
        (Kind.LIST, [1, "b"], ["1", "b"]),
        (Kind.ANY, 3.5, 3.5),
    ],
)
def test_conversions(kind: Kind, value: Any, expected: Any) -> None:
    (converted,) = convert([value], kind, None)
    assert converted == expected and type(converted) is type(expected)
