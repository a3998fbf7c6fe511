import pyarrow as pa
import pytest

from recommender.history import History, read_history
from recommender.item_item import NEIGHBOURS, ItemItemParams, train_neighbours


def history(pairs: list[tuple[str, str]]) -> History:
    columns = {
        "user_id": [user for user, _ in pairs],
        "item_id": [item for _, item in pairs],
    }
    return read_history(
        pa.table(columns, schema=pa.schema(dict.fromkeys(columns, pa.string()))), {}
    )


def neighbours(pairs: list[tuple[str, str]], **params: float) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    table = train_neighbours(history(pairs), ItemItemParams(**params))
    assert table.schema == NEIGHBOURS
    for row in table.to_pylist():
        assert 0 < row["score"] <= 1
        found.setdefault(row["item_id"], []).append(row["neighbour_id"])
    return found


BOARD = [
    (f"u{user}", f"i{item}")
    for user in range(6)
    for item in range(6)
    if user % 2 == item % 2
]


def test_neighbours_are_of_the_same_colour() -> None:
    found = neighbours(BOARD)
    assert set(found["i0"]) == {"i2", "i4"}
    assert set(found["i1"]) == {"i3", "i5"}


def test_the_nearest_comes_first() -> None:
    pairs = [("u", "a"), ("u", "b"), ("v", "a"), ("v", "b"), ("w", "a"), ("w", "c")]
    assert neighbours(pairs, beta=0)["a"] == ["b", "c"]


def test_beta_puts_the_popular_ones_back() -> None:
    pairs = [
        ("u", "a"),
        ("u", "rare"),
        ("u", "hit"),
        *((f"x{n}", "hit") for n in "123"),
    ]
    assert neighbours(pairs, beta=1)["a"][0] == "rare"


def test_a_person_counts_with_the_newest_items_only() -> None:
    pairs = [("u", "old"), ("u", "a"), ("u", "b")]
    assert neighbours(pairs, most_items=2) == {"a": ["b"], "b": ["a"]}
    assert len(neighbours(pairs, neighbours=1)["a"]) == 1


@pytest.mark.parametrize("pairs", [[], [("u", "a")], [("u", "a"), ("v", "b")]])
def test_nobody_shares_anything(pairs: list[tuple[str, str]]) -> None:
    assert neighbours(pairs) == {}
