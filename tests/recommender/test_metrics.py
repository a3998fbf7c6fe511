from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from feedloop.errors import ContractError
from recommender.metrics import coverage, differences, estimates, evaluate, per_user

TRUTH = pa.table(
    {
        "user_id": ["a", "a", "a", "b", "c", "a"],
        "item_id": ["x", "y", "z", "x", "q", "x"],
    }
)
LISTS = pa.table(
    {
        "user_id": ["a", "a", "a", "b", "b", "d"],
        "item_id": ["n", "x", "y", "m", "n", "x"],
        "rank": [1, 2, 3, 1, 2, 1],
    }
)
CATALOGUE = pa.table(
    {"item_id": ["m", "n", "x", "y", "z"], "category": ["1", "1", "2", "2", None]}
)


def values(k: int, **more: pa.Table) -> dict[str, list[float]]:
    found = per_user(LISTS, TRUTH, [k], **more)
    return {name: found[name].to_pylist() for name in found.column_names}


def test_accuracy_by_hand() -> None:
    # a wants x, y, z (x said twice) and is shown n, x, y; b wants x, is shown
    # m, n; c wants q and is shown nothing; d wants nothing and doesn't count
    found = values(3)
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    assert found["user_id"] == ["a", "b", "c"]
    assert found["recall@3"] == pytest.approx([2 / 3, 0, 0])
    assert found["ndcg@3"] == pytest.approx([(1 / np.log2(3) + 1 / 2) / ideal, 0, 0])
    assert found["hr@3"] == [1, 0, 0]
    assert found["mrr@3"] == [0.5, 0, 0]


def test_a_cut_below_the_truth() -> None:
    found = values(2)
    assert found["recall@2"] == pytest.approx([1 / 3, 0, 0])
    ideal = 1 + 1 / np.log2(3)
    assert found["ndcg@2"] == pytest.approx([1 / np.log2(3) / ideal, 0, 0])


def test_diversity_by_hand() -> None:
    # a: n | x, y, so two of three pairs differ; b: m and n are alike
    assert values(3, catalogue=CATALOGUE)["diversity@3"] == pytest.approx([2 / 3, 0, 0])


def test_novelty_by_hand() -> None:
    # three people train; x is known to two (once said twice), n to one
    train = pa.table(
        {"user_id": ["p", "q", "p", "r", "p"], "item_id": ["x", "x", "n", "w", "x"]}
    )
    found = values(2, train=train)["novelty@2"]
    a = (-np.log2(2 / 4) - np.log2(3 / 4)) / 2
    b = (-np.log2(1 / 4) - np.log2(2 / 4)) / 2
    assert found == pytest.approx([a, b, 0])


def test_coverage_by_hand() -> None:
    assert coverage(LISTS, CATALOGUE["item_id"].combine_chunks(), 1) == 3 / 5
    assert coverage(LISTS, CATALOGUE["item_id"].combine_chunks(), 3) == 4 / 5
    assert coverage(LISTS, pa.array([], pa.string()), 3) == 0


def test_cohorts_cut_users_or_the_truth() -> None:
    found = evaluate(
        LISTS,
        TRUTH,
        [3],
        seed=0,
        user_cohorts={"new": pa.array(["a"]), "nobody": pa.array(["e"])},
        item_cohorts={"cold": pa.array(["y", "q"])},
    )
    assert list(found) == ["all", "new", "cold"]
    assert found["all"]["recall@3"].mean == pytest.approx(2 / 9)
    assert found["new"]["recall@3"].mean == pytest.approx(2 / 3)
    assert found["new"]["recall@3"].users == 1
    # of the cold ones a wants y, which is shown third, and c wants q
    assert found["cold"]["recall@3"].mean == pytest.approx(1 / 2)
    assert found["cold"]["mrr@3"].mean == pytest.approx(1 / 6)


def test_the_interval_is_that_of_a_mean() -> None:
    rng = np.random.default_rng(0)
    drawn = (rng.random(2000) < 0.3).astype(float)
    table = pa.table({"user_id": [str(at) for at in range(2000)], "hr@1": drawn})
    found = estimates(table, seed=1)["hr@1"]
    assert found == estimates(table, seed=1)["hr@1"]
    half = 1.96 * drawn.std() / np.sqrt(2000)
    assert found.mean == pytest.approx(drawn.mean())
    assert found.low == pytest.approx(drawn.mean() - half, rel=0.03)
    assert found.high == pytest.approx(drawn.mean() + half, rel=0.03)


def test_a_difference_is_resampled_in_pairs() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(500)
    users = [str(at) for at in range(500)]
    ours = pa.table({"user_id": users, "hr@1": base + 0.01})
    theirs = pa.table({"user_id": users, "hr@1": base})
    found = differences(ours, theirs, seed=0)["hr@1"]
    # the same for everyone, so the interval has no width
    assert [found.low, found.mean, found.high] == pytest.approx([0.01] * 3)
    with pytest.raises(ContractError, match="same users"):
        differences(ours, theirs.slice(1), seed=0)


def test_metrics_rise_with_k() -> None:
    found = per_user(LISTS, TRUTH, [1, 2, 3])
    for low, high in pairwise([1, 2, 3]):
        lower, higher = found[f"recall@{low}"], found[f"recall@{high}"]
        assert (lower.to_numpy() <= higher.to_numpy()).all()
