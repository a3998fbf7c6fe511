"""Two warehouses' relations, held row against row."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

TOLERANCE = 1e-9
"""Relative, where warehouses may add floats up in different orders."""

Row = dict[str, Any]


def relations(target: Path) -> list[str]:
    """Every relation that a build leaves by the manifest in ``target``: models
    in SQL and in Python, snapshots and seeds."""
    nodes = json.loads((target / "manifest.json").read_text())["nodes"].values()
    kinds = ("model", "snapshot", "seed")
    return sorted(node["name"] for node in nodes if node["resource_type"] in kinds)


def differences(expected: pa.Table, found: pa.Table) -> Iterator[str]:
    """What differs, a sentence each, the first ten rows at most."""
    columns = sorted(expected.column_names)
    if columns != sorted(found.column_names):
        yield f"columns {columns} are {sorted(found.column_names)}"
        return
    ours, theirs = _sorted_rows(expected), _sorted_rows(found)
    if len(ours) != len(theirs):
        yield f"{len(ours)} rows are {len(theirs)}"
    told = 0
    for row, other in zip(ours, theirs, strict=False):
        unequal = [name for name in columns if not _equal(row[name], other[name])]
        if unequal:
            told += 1
            yield "; ".join(f"{n}: {row[n]!r} is {other[n]!r}" for n in unequal)
        if told == 10:
            return


def _sorted_rows(table: pa.Table) -> list[Row]:
    """Rows in an order of their own: exact values first, then floats."""
    rows = [
        {name: _plain(value) for name, value in row.items()}
        for row in table.to_pylist()
    ]
    names = sorted(table.column_names, key=lambda n: (_inexact(table.schema, n), n))
    return sorted(rows, key=lambda row: [_key(row[name]) for name in names])


def _inexact(schema: pa.Schema, name: str) -> bool:
    kind = schema.field(name).type
    return bool(pa.types.is_floating(getattr(kind, "value_type", kind)))


def _plain(value: Any) -> Any:
    """An instant without a zone is UTC, as on both warehouses."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC)
    return value


def _key(value: Any) -> tuple[bool, str] | tuple[bool, Any]:
    if value is None:
        return (True, 0)
    if isinstance(value, list | dict):
        return (False, repr(value))
    return (False, value)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        both_nan = math.isnan(one) and math.isnan(other)
        return both_nan or math.isclose(one, other, rel_tol=TOLERANCE)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)
