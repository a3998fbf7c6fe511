import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedloop.errors import ContractError
from recommender.arrays import (
    codes,
    column,
    contains,
    descending,
    distinct,
    ids,
    matrix,
    numbers,
    positions,
    ragged,
    vectors,
)

FLOATS = st.floats(width=32, allow_nan=False)


@given(st.lists(FLOATS, min_size=1))
def test_descending_keys_sort_as_the_numbers_fall(values: list[float]) -> None:
    numbers32 = np.array(values, np.float32)
    by_key = numbers32[np.argsort(descending(numbers32), kind="stable")]
    assert (by_key == -np.sort(-numbers32)).all()


def test_descending_keys_know_one_zero_only() -> None:
    zeros = np.array([0.0, -0.0], np.float32)
    assert len(set(descending(zeros).tolist())) == 1


@given(st.sets(st.integers(0, 50)), st.lists(st.integers(0, 50)))
def test_contains_is_set_membership(held: set[int], asked: list[int]) -> None:
    keys = np.array(sorted(held), np.uint64)
    found = contains(keys, np.array(asked, np.uint64))
    assert found.tolist() == [one in held for one in asked]


def test_distinct_sorts_and_drops_repeats() -> None:
    assert distinct(np.array([3, 1, 3, 2, 1], np.uint64)).tolist() == [1, 2, 3]
    assert distinct(np.array([], np.uint64)).tolist() == []


def test_codes_are_places_in_sorted_order() -> None:
    found, names = codes(pa.array(["b", "a", "c", "a"]))
    assert found.tolist() == [1, 0, 2, 0]
    assert names.to_pylist() == ["a", "b", "c"]
    assert positions(names, pa.array(["c", "x", None])).tolist() == [2, -1, -1]


def test_ragged_lists_keep_to_a_slice_and_read_null_as_empty() -> None:
    lists = pa.array([["x"], ["a", "b"], None, [], ["c"]]).slice(1)
    offsets, values = ragged(lists)
    assert offsets.tolist() == [0, 2, 2, 2, 3]
    assert values.to_pylist() == ["a", "b", "c"]


def test_vectors_go_both_ways() -> None:
    dense = np.arange(6, dtype=np.float32).reshape(3, 2)
    found, present = matrix(vectors(dense).slice(1))
    assert (found == dense[1:]).all()
    assert present.all()
    nothing, present = matrix(pa.array([None, []], pa.list_(pa.float32())), 3)
    assert nothing.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert not present.any()


@pytest.mark.parametrize("bad", [[1.0, None], [float("nan"), 1.0], [float("inf"), 0]])
def test_a_vector_must_be_finite(bad: list[float | None]) -> None:
    with pytest.raises(ContractError, match="null or an infinite"):
        matrix(pa.array([[1.0, 2.0], bad], pa.list_(pa.float32())))


def test_columns_are_checked_at_the_border() -> None:
    table = pa.table({"a": ["1", "x"], "b": [None, "y"], "c": [1.0, None]})
    with pytest.raises(ContractError, match="column z is missing"):
        column(table, "z", pa.string())
    with pytest.raises(ContractError, match="column a is string"):
        column(table, "a", pa.float64())
    with pytest.raises(ContractError, match="column b has 1 nulls"):
        ids(table, "b")
    assert numbers(table, "c", 7.0).tolist() == [1.0, 7.0]
