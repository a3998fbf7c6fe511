import numpy as np
import pyarrow as pa
import pytest

from feedloop.errors import ContractError
from recommender.arrays import VECTOR, column, matrix
from recommender.embeddings import (
    AlsParams,
    fold_in_users,
    map_cold_items,
    train_item_factors,
)
from tests.recommender.worlds import vectors_table

PARAMS = AlsParams(factors=8, regularization=0.1, iterations=10, alpha=5.0, seed=1)


def interactions(rows: list[tuple[str, str, float]]) -> pa.Table:
    users, items, confidence = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "item_id": pa.array(items, pa.string()),
            "confidence": pa.array(confidence, pa.float64()),
        }
    )


def checkerboard(size: int = 20) -> pa.Table:
    """User u and item i meet where both are even or both are odd, except that
    nobody has met the item of the own number."""
    return interactions(
        [
            (f"u{user:02d}", f"i{item:02d}", 1.0)
            for user in range(size)
            for item in range(size)
            if (user + item) % 2 == 0 and user != item
        ]
    )


def dense(table: pa.Table) -> np.ndarray:
    return matrix(column(table, "vector", VECTOR))[0]


def test_the_best_item_of_a_checkerboard_is_the_one_kept_back() -> None:
    board = checkerboard()
    items = train_item_factors(board, PARAMS)
    users = fold_in_users(board, items, PARAMS)
    scores = dense(users) @ dense(items).T
    for user in range(20):
        seen = [item for item in range(20) if (user + item) % 2 == 0 and user != item]
        scores[user, seen] = -np.inf
    assert scores.argmax(axis=1).tolist() == list(range(20))


def test_training_repeats_whatever_the_order_of_rows_and_the_threads() -> None:
    board = checkerboard()
    halves = board.set_column(2, "confidence", pa.array([0.5] * len(board)))
    shuffled = np.random.default_rng(0).permutation(2 * len(board))
    twice = pa.concat_tables([halves, halves]).take(pa.array(shuffled))
    first = train_item_factors(board, PARAMS)
    for threads in (1, 2, 4):
        params = AlsParams(
            factors=8,
            regularization=0.1,
            iterations=10,
            alpha=5.0,
            seed=1,
            num_threads=threads,
        )
        assert train_item_factors(twice, params) == first


def test_folding_in_is_the_exact_half_step() -> None:
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(6, 8)).astype(np.float32)
    items = vectors_table("item_id", [f"i{at}" for at in range(6)], factors)
    log = interactions([("u", "i0", 2.0), ("u", "i3", 1.0), ("u", "unknown", 9.0)])
    found = dense(fold_in_users(log, items, PARAMS))[0]

    # x = (YᵀY + Yᵀ(C - I)Y + λI)⁻¹ YᵀC·1 with C = α · confidence
    confidence = np.array([10.0, 0, 0, 5.0, 0, 0])
    surplus = np.maximum(confidence - 1, 0)
    left = factors.T @ factors + factors.T @ np.diag(surplus) @ factors
    expected = np.linalg.solve(left + 0.1 * np.eye(8), factors.T @ confidence)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_folding_in_depends_on_no_other_user() -> None:
    board = checkerboard()
    items = train_item_factors(board, PARAMS)
    everyone = fold_in_users(board, items, PARAMS)
    own = board.filter(pa.compute.equal(board["user_id"], "u07"))
    assert fold_in_users(own, items, PARAMS).to_pylist()[0] == everyone.to_pylist()[7]


def test_new_items_move_only_who_touched_them() -> None:
    board = checkerboard()
    items = train_item_factors(board, PARAMS)
    new = vectors_table(
        "item_id", [f"n{at:03d}" for at in range(500)], np.ones((500, 8))
    )
    alone = fold_in_users(board, items, PARAMS)
    assert fold_in_users(board, items, PARAMS, mapped=new) == alone
    visit = pa.concat_tables([board, interactions([("u00", "n007", 3.0)])])
    touched = fold_in_users(visit, items, PARAMS, mapped=new)
    assert touched.slice(1) == alone.slice(1)
    # who has touched an item is to score near 1 with it
    after, before = dense(touched)[0] @ np.ones(8), dense(alone)[0] @ np.ones(8)
    assert abs(after - 1) < abs(before - 1)
    first = fold_in_users(interactions([("u", "n007", 1.0)]), items, PARAMS, mapped=new)
    assert dense(first)[0] @ np.ones(8) > 0


def test_users_of_unknown_items_get_no_vector() -> None:
    items = train_item_factors(checkerboard(), PARAMS)
    found = fold_in_users(interactions([("u", "elsewhere", 1.0)]), items, PARAMS)
    assert len(found) == 0


def test_no_interactions_one_user_and_one_item() -> None:
    nothing = train_item_factors(interactions([]), PARAMS)
    assert len(nothing) == 0
    assert len(fold_in_users(interactions([("u", "i", 1.0)]), nothing, PARAMS)) == 0
    one = train_item_factors(interactions([("u", "i", 1.0)]), PARAMS)
    assert one["item_id"].to_pylist() == ["i"]
    assert np.isfinite(dense(one)).all()
    user = fold_in_users(interactions([("u", "i", 1.0)]), one, PARAMS)
    assert (dense(user) @ dense(one).T).item() > 0


@pytest.mark.parametrize("confidence", [0.0, -1.0, float("nan"), float("inf")])
def test_a_confidence_must_be_above_zero(confidence: float) -> None:
    with pytest.raises(ContractError, match="confidence"):
        train_item_factors(interactions([("u", "i", confidence)]), PARAMS)


def catalogue(
    rows: list[tuple[str, str | None, list[str] | None, str | None]],
) -> pa.Table:
    names, categories, tags, titles = zip(*rows, strict=True)
    return pa.table(
        {
            "item_id": pa.array(names, pa.string()),
            "category": pa.array(categories, pa.string()),
            "tags": pa.array(tags, pa.list_(pa.string())),
            "title": pa.array(titles, pa.string()),
        }
    )


EAST, WEST = [1.0, 0.0], [0.0, 1.0]


def cosine(one: np.ndarray, other: list[float]) -> float:
    return float(one @ np.array(other) / np.linalg.norm(one))


def test_a_cold_item_points_where_its_tags_and_its_category_point() -> None:
    known = [(f"e{at}", "news", ["east"], "sunrise report") for at in range(10)]
    known += [(f"w{at}", "news", ["west"], "sunset report") for at in range(10)]
    known += [(f"s{at}", "sport", None, None) for at in range(5)]
    factors = vectors_table(
        "item_id",
        [name for name, *_ in known],
        [EAST] * 10 + [WEST] * 10 + [EAST] * 5,
    )
    cold = catalogue(
        [
            *known,
            ("x1", "news", ["east"], None),
            ("x2", "news", None, "the SUNSET, again"),
            ("x3", "sport", ["never seen"], None),
            ("x4", None, ["west"], None),
        ]
    )
    found = map_cold_items(cold, factors)
    assert found["item_id"].to_pylist() == ["x1", "x2", "x3", "x4"]
    by_tag, by_word, by_category, without_category = dense(found)
    assert cosine(by_tag, EAST) > 0.9
    assert cosine(by_word, WEST) > cosine(by_word, EAST) + 0.02
    assert cosine(by_category, EAST) > 0.99
    assert cosine(without_category, WEST) > 0.9


def test_what_nothing_is_known_of_gets_a_vector_of_zeros() -> None:
    factors = vectors_table("item_id", ["k"], [EAST])
    items = catalogue(
        [
            ("k", "news", None, None),
            ("x", "unseen", None, None),
            ("y", "news", None, None),
        ]
    )
    unseen, alike = dense(map_cold_items(items, factors))
    assert not unseen.any()
    assert cosine(alike, EAST) > 0.99
    nobody = vectors_table("item_id", [], np.zeros((0, 2)))
    assert not dense(map_cold_items(items, nobody)).any()
    assert len(map_cold_items(items.slice(0, 1), factors)) == 0
