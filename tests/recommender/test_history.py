from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from feedloop.contracts.seeds import read_event_types
from feedloop.errors import ContractError
from feedloop.settings import from_environment
from recommender.history import (
    History,
    affinities,
    interactions,
    item_lists,
    item_values,
    read_history,
    user_values,
)

NOW = datetime(2025, 1, 10, tzinfo=UTC)
TYPES = read_event_types(from_environment({}).seeds_dir)


def history(rows: list[tuple[str, str, float]], kind: str | None = None) -> History:
    """From (user, item, days ago)."""
    columns = {
        "user_id": [user for user, _, _ in rows],
        "item_id": [item for _, item, _ in rows],
        "occurred_at": [NOW - timedelta(days=ago) for *_, ago in rows],
    }
    if kind:
        columns["event_type"] = [kind] * len(rows)
    return read_history(pa.table(columns), TYPES)


def test_interactions_are_in_order_of_time() -> None:
    found = history([("u", "b", 1), ("u", "c", 3), ("v", "a", 2)])
    assert found.item_ids.take(pa.array(found.item)).to_pylist() == ["c", "a", "b"]
    assert found.as_of == NOW - timedelta(days=1) + timedelta(microseconds=1)


def test_without_times_the_order_of_the_rows_says_nothing() -> None:
    table = pa.table({"user_id": ["u", "v"] * 20, "item_id": [*map(str, range(40))]})
    one = read_history(table, TYPES)
    other = read_history(table.take(pa.array(range(39, -1, -1))), TYPES)
    assert one.item.tolist() == other.item.tolist() != sorted(one.item)
    assert one.user.tolist() == other.user.tolist()


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000])
def test_whole_numbers_are_unix_time(unit: int) -> None:
    at = int(NOW.timestamp()) * unit
    table = pa.table({"user_id": [1], "item_id": [2], "occurred_at": [at]})
    found = read_history(table, TYPES)
    assert found.as_of == NOW + timedelta(microseconds=1)
    assert found.user_ids.to_pylist() == ["1"]


def test_an_instant_without_a_zone_is_utc() -> None:
    table = pa.table(
        {"user_id": ["u"], "item_id": ["a"], "occurred_at": [NOW.replace(tzinfo=None)]}
    )
    assert read_history(table, TYPES).as_of == NOW + timedelta(microseconds=1)


def test_exposures_and_negatives_are_left_out_and_unknown_types_count_one() -> None:
    table = pa.table(
        {
            "user_id": ["u"] * 4,
            "item_id": ["a", "b", "c", "d"],
            "event_type": ["impression", "skip", "applause", "purchase"],
        }
    )
    found = read_history(table, TYPES)
    assert found.item_ids.take(pa.array(found.item)).to_pylist() == ["c", "d"]
    assert found.weight.tolist() == [1, TYPES["purchase"].weight]


def test_confidence_halves_with_the_half_life() -> None:
    days = TYPES["click"].half_life_days
    table = interactions(history([("u", "a", 0), ("u", "b", days)], "click"), NOW)
    weight = TYPES["click"].weight
    assert table["confidence"].to_pylist() == pytest.approx([weight / 2, weight])


def test_windows_and_trend_end_at_the_instant() -> None:
    found = history([("u", "a", 0.5), ("v", "a", 3), ("u", "b", 20)], "click")
    values = item_values(found, NOW, 2, trend_half_life_hours=12)
    assert values["item_popularity_1d"].tolist() == [3, 0]
    assert values["item_popularity_7d"].tolist() == [6, 0]
    assert values["item_popularity_30d"].tolist() == [6, 3]
    assert values["item_trending"][0] == pytest.approx(3 * (0.5 + 0.5**6))
    assert values["item_trending_1h"][0] == pytest.approx(3 * (0.5**12 + 0.5**72))
    assert values["item_trending_10m"][0] == pytest.approx(3 * 0.5**72)


def test_user_values_count_events_and_days() -> None:
    found = history([("u", "a", 1), ("u", "b", 1.1), ("u", "c", 9), ("v", "a", 40)])
    values = user_values(found, NOW, 2)
    assert values["user_is_little_known"].tolist() == [0, 1]
    assert values["user_events_7d"].tolist() == [2, 0]
    assert values["user_active_days_30d"].tolist() == [3, 0]


def test_affinity_is_the_share_of_recent_interactions() -> None:
    found = history([("u", "a", 1), ("u", "b", 1), ("u", "c", 90), ("v", "c", 2)])
    share = affinities(found, NOW, np.array([0, 1, 1]), 2)
    assert share.tolist() == [[0.5, 0.5], [0, 1]]


def test_lists_are_distinct_newest_first() -> None:
    found = history([("u", "a", 1), ("u", "b", 2), ("u", "a", 3), ("v", "c", 1)])
    assert item_lists(found, 5).to_pylist() == [["a", "b"], ["c"]]
    assert item_lists(found, 1).to_pylist() == [["a"], ["c"]]


@pytest.mark.parametrize("name", ["user_id", "item_id", "occurred_at"])
def test_a_null_is_refused_by_name(name: str) -> None:
    columns = {"user_id": ["u"], "item_id": ["a"], "occurred_at": [NOW]}
    with pytest.raises(ContractError, match=name):
        read_history(pa.table(columns | {name: pa.array([None], pa.string())}), TYPES)


def test_no_interactions() -> None:
    table = pa.table(
        {"user_id": pa.array([], pa.string()), "item_id": pa.array([], pa.string())}
    )
    found = read_history(table, TYPES)
    assert len(found) == 0
    assert interactions(found, NOW).num_rows == 0
    assert item_lists(found, 5).to_pylist() == []
