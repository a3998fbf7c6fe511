"""Logged features, read by a run that has others."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from feedloop.contracts.seeds import Feature
from feedloop.errors import ContractError
from recommender.examples import aligned


def feature(name: str, default: float) -> Feature:
    return Feature(name, "user", "batch", 1, default, 0, 1, True, "us", "a number")


FEATURES = {"hours": feature("hours", 720), "events": feature("events", 0)}


def examples(*rows: tuple[list[str], list[float]]) -> pa.Table:
    names, values = zip(*rows, strict=True) if rows else ((), ())
    columns: dict[str, Any] = {
        "feature_names": pa.array(names, pa.list_(pa.string())),
        "feature_values": pa.array(values, pa.list_(pa.float32())),
        "group_id": pa.array([str(at) for at in range(len(rows))], pa.string()),
    }
    return pa.table(columns)


def test_values_follow_their_names_not_their_places() -> None:
    table = examples(
        (["events", "cosine"], [1, 0.5]),
        (["cosine", "events"], [0.25, 2]),
    )
    found = aligned(table, ["cosine", "events"], FEATURES)
    assert found["feature_values"].to_pylist() == [[0.5, 1], [0.25, 2]]
    assert found["group_id"].to_pylist() == ["0", "1"]


def test_a_feature_added_since_takes_its_default_and_a_dropped_one_goes() -> None:
    table = examples((["events", "dropped"], [1, 9]), (["hours"], [3]))
    found = aligned(table, ["hours", "events", "cosine"], FEATURES)
    assert found["feature_values"].to_pylist() == [[720, 1, 0], [3, 0, 0]]


def test_no_examples_stay_none() -> None:
    assert aligned(examples(), ["events"], FEATURES).num_rows == 0


def test_values_without_a_name_are_refused() -> None:
    with pytest.raises(ContractError):
        aligned(examples((["events"], [1, 2])), ["events"], FEATURES)
