import numpy as np
import pyarrow as pa
import pytest

from feedloop.errors import ContractError
from recommender.ease import WEIGHTS, EaseParams, train_weights


def table(taken: np.ndarray) -> pa.Table:
    """From (people, items), above 0 where a person took an item: the recency
    place."""
    user, item = np.nonzero(taken)
    return pa.table(
        {
            "user_id": [f"u{at:03}" for at in user],
            "item_id": [f"i{at:03}" for at in item],
            "recency_place": pa.array(taken[user, item], pa.int64()),
        }
    )


def trained(taken: np.ndarray, **params: float) -> np.ndarray:
    made = train_weights(table(taken), EaseParams(**params))
    assert made.schema == WEIGHTS
    found = np.zeros((taken.shape[1],) * 2)
    for row in made.to_pylist():
        found[int(row["item_id"][1:]), int(row["other_id"][1:])] = row["weight"]
    return found


def some(people: int = 80, items: int = 300) -> np.ndarray:
    """Popular items and unpopular ones, in a person's order by chance."""
    rng = np.random.default_rng(1)
    taken = rng.random((people, items)) < np.linspace(0.4, 0.02, items)
    taken[0] = True
    order = np.argsort(np.argsort(rng.random(taken.shape), axis=1), axis=1) + 1
    return taken * order


def test_each_item_is_regressed_on_all_others() -> None:
    """Column by column by the normal equations, in which its own row is left
    out: the definition, not the closed form."""
    taken = some()
    matrix = (taken > 0).astype(float)
    found = trained(taken, regularization=7.0, kept=1000, most_of_person=10_000)
    for item in (0, 1, 150, 299):
        others = np.delete(np.arange(matrix.shape[1]), item)
        rest = matrix[:, others]
        expected = np.linalg.solve(
            rest.T @ rest + 7.0 * np.eye(len(others)), rest.T @ matrix[:, item]
        )
        np.testing.assert_allclose(found[others, item], expected, atol=1e-6)
        assert found[item, item] == 0


def test_the_strongest_weights_are_kept_whatever_their_sign() -> None:
    every = trained(some(), kept=1000, most_of_person=10_000)
    some_ = trained(some(), kept=20, most_of_person=10_000)
    assert ((some_ != 0).sum(axis=1) == 20).all()
    assert (some_ < 0).any() and (some_ > 0).any()
    for all_, kept in zip(every, some_, strict=True):
        np.testing.assert_array_equal(all_[kept != 0], kept[kept != 0])
        assert np.abs(kept[kept != 0]).min() >= np.abs(all_[kept == 0]).max()


def test_only_the_most_taken_items_and_a_persons_newest_count() -> None:
    taken = some()
    found = trained(taken, most_items=50, most_of_person=10_000)
    people = (taken > 0).sum(axis=0)
    weighed = np.flatnonzero((found != 0).any(axis=0))
    assert len(weighed) == 50
    assert people[weighed].min() >= np.delete(people, weighed).max()
    newest = np.where(taken <= 100, taken, 0)
    np.testing.assert_array_equal(
        trained(taken, most_of_person=100), trained(newest, most_of_person=10_000)
    )


def test_the_order_of_the_rows_changes_nothing() -> None:
    whole = table(some())
    mixed = whole.take(pa.array(np.random.default_rng(0).permutation(len(whole))))
    assert train_weights(whole, EaseParams()) == train_weights(mixed, EaseParams())


@pytest.mark.parametrize("items", [0, 1])
def test_of_fewer_than_two_items_nothing_is_told(items: int) -> None:
    assert len(train_weights(table(np.ones((3, items), int)), EaseParams())) == 0


def test_no_items_asked_for_no_weights() -> None:
    assert len(train_weights(table(some()), EaseParams(most_items=0))) == 0


def test_without_a_penalty_it_says_what_to_change() -> None:
    twice = np.tile(some(items=1), (1, 2))
    with pytest.raises(ContractError, match="ease_regularization must be above 0"):
        trained(twice, regularization=0.0)
