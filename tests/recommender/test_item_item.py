import numpy as np
import pyarrow as pa
import pytest

from recommender.item_item import NEIGHBOURS, ItemItemParams, train_neighbours

Pairs = list[tuple[str, str]]


def table(pairs: Pairs) -> pa.Table:
    """Pairs in the order in which they came."""
    places: list[int] = []
    for at, (user, _) in enumerate(pairs):
        places.append(sum(other == user for other, _ in pairs[at:]))
    return pa.table(
        {
            "user_id": pa.array([user for user, _ in pairs], pa.string()),
            "item_id": pa.array([item for _, item in pairs], pa.string()),
            "recency_place": pa.array(places, pa.int64()),
        }
    )


def neighbours(
    pairs: Pairs, *, ordered: bool = True, **params: float
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    made = train_neighbours(table(pairs), ItemItemParams(**params), ordered=ordered)
    assert made.schema == NEIGHBOURS
    for row in made.to_pylist():
        found.setdefault(row["item_id"], {})[row["neighbour_id"]] = row["score"]
    return found


BOARD = [
    (f"u{user}", f"i{item}")
    for user in range(6)
    for item in range(6)
    if user % 2 == item % 2
]


@pytest.mark.parametrize("ordered", [True, False])
def test_neighbours_are_of_the_same_colour(ordered: bool) -> None:
    found = neighbours(BOARD, ordered=ordered)
    assert set(found["i0"]) == {"i2", "i4"}
    assert set(found["i1"]) == {"i3", "i5"}


def test_a_score_is_the_cosine_of_what_came_together() -> None:
    pairs = [("u", "a"), ("u", "b"), ("u", "c"), ("v", "a")]
    found = neighbours(pairs, half_life=1, shrinkage=1)
    assert found["a"]["b"] == pytest.approx(0.5 / np.sqrt(3 * 2))
    assert found["a"]["c"] == pytest.approx(0.25 / np.sqrt(3 * 2))
    assert found["c"]["a"] == found["a"]["c"]
    assert list(found["a"]) == ["b", "c"]


def test_without_an_order_a_score_is_the_chance_of_a_walk() -> None:
    """From c there is one way on, to u, and from u as likely to a as to b. From a
    it is u half the time, v the other half."""
    pairs = [("u", "a"), ("u", "b"), ("u", "c"), ("v", "a")]
    found = neighbours(pairs, ordered=False, walk_degree=1, walk_popularity=0)
    assert found["c"] == pytest.approx({"a": 1 / 3, "b": 1 / 3})
    assert found["a"] == pytest.approx({"b": 1 / 6, "c": 1 / 6})
    held_back = neighbours(pairs, ordered=False, walk_degree=1, walk_popularity=1)
    assert list(held_back["c"]) == ["b", "a"]
    assert held_back["c"] == pytest.approx({"b": 1 / 3, "a": 1 / 6})


def test_without_an_order_places_say_nothing() -> None:
    pairs = [*BOARD, ("u0", "i1")]
    backwards = sorted(pairs, reverse=True)
    assert neighbours(pairs, ordered=False) == neighbours(backwards, ordered=False)


def test_what_lies_beyond_the_window_is_not_together() -> None:
    pairs = [("u", "a"), ("u", "b"), ("u", "c")]
    assert set(neighbours(pairs, window=1)["a"]) == {"b"}


def test_shrinkage_puts_a_chance_meeting_behind() -> None:
    once = [("u", "a"), ("u", "rare")]
    often = [(f"x{at}", item) for at in range(3) for item in ("a", "hit")]
    alone = [(f"y{at}", "hit") for at in range(12)]
    pairs = [*once, *often, *alone]
    assert next(iter(neighbours(pairs, shrinkage=0)["a"])) == "rare"
    assert next(iter(neighbours(pairs, shrinkage=10)["a"])) == "hit"


def test_the_order_of_rows_changes_nothing() -> None:
    rows = table(BOARD)
    shuffled = rows.take(pa.array(np.random.default_rng(0).permutation(len(rows))))
    one, other = (train_neighbours(t, ItemItemParams()) for t in (rows, shuffled))
    assert one == other


def test_work_is_bounded() -> None:
    pairs = [("u", "old"), ("u", "a"), ("u", "b")]
    found = neighbours(pairs, most_items=2)
    assert {item: list(near) for item, near in found.items()} == {
        "a": ["b"],
        "b": ["a"],
    }
    assert len(neighbours(pairs, neighbours=1)["a"]) == 1


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("pairs", [[], [("u", "a")], [("u", "a"), ("v", "b")]])
def test_nobody_shares_anything(pairs: Pairs, ordered: bool) -> None:
    assert neighbours(pairs, ordered=ordered) == {}
