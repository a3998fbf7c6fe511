import numpy as np
import pyarrow as pa
import pytest

from recommender.arrays import vectors
from recommender.candidates import SOURCES, shares
from recommender.params import KernelParams
from recommender.quotas import FLOOR, PRIOR, learnt, with_shares

NAMES = ["noise", *(f"from_{source}" for source in SOURCES)]
ALS, ITEM_ITEM, EASE, TASTE, TRENDING, POPULAR, FRESH = range(len(SOURCES))
START = shares(KernelParams())


def examples(*taken: tuple[int, ...], negatives: int = 50) -> pa.Table:
    """A row for each item taken, by the places of the sources that brought it,
    and some that were not, all from everywhere."""
    rows = np.zeros((len(taken) + negatives, len(NAMES)), np.float32)
    for at, brought in enumerate(taken):
        rows[at, [1 + source for source in brought]] = 1
    rows[len(taken) :] = 1
    return pa.table(
        {
            "label": [1.0] * len(taken) + [0.0] * negatives,
            "feature_values": vectors(rows),
        }
    )


def test_without_anything_taken_they_stay() -> None:
    assert learnt(examples(), NAMES, KernelParams()) == START


def test_a_share_is_that_of_the_credit() -> None:
    # two of three from trending alone, one from als and ease together; what
    # exploration brought is nobody's
    taken = [(TRENDING,), (TRENDING,), (ALS, EASE)] * 1000 + [()] * 1000
    found = learnt(examples(*taken), NAMES, KernelParams())
    assert sum(found.values()) == pytest.approx(1, abs=5e-4)
    worth = {
        "als": 500 + PRIOR * START["als"],
        "ease": 500 + PRIOR * START["ease"],
        "trending": 2000 + PRIOR * START["trending"],
    }
    # what brought nothing that was taken stays at the floor, at the others' expense
    idle = {"item_item", "taste", "popular", "fresh"}
    left = (1 - len(idle) * FLOOR) / sum(worth.values())
    assert {found[source] for source in idle} == {FLOOR}
    for source, one in worth.items():
        assert found[source] == pytest.approx(left * one, abs=1e-4)


def test_one_source_never_takes_all() -> None:
    found = learnt(examples(*[(FRESH,)] * 100_000), NAMES, KernelParams())
    assert found["fresh"] == pytest.approx(1 - 6 * FLOOR, abs=1e-3)
    assert all(found[source] == FLOOR for source in SOURCES if source != "fresh")


def test_a_source_that_brought_nobody_anything_is_not_judged() -> None:
    without = [source for source in range(len(SOURCES)) if source != TASTE]
    table = examples(*[(TRENDING,)] * 1000, negatives=0)
    table = pa.concat_tables([table, examples(*[tuple(without)] * 1000, negatives=0)])
    found = learnt(table, NAMES, KernelParams())
    assert found["taste"] == START["taste"]
    assert sum(found.values()) == pytest.approx(1, abs=5e-4)
    assert found["trending"] > START["trending"]


def test_the_order_of_the_rows_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    taken = [tuple(np.flatnonzero(rng.random(5) < 0.4)) for _ in range(2000)]
    table = examples(*taken)
    shuffled = table.take(rng.permutation(len(table)))
    params = KernelParams(als_share=0.3, fresh_share=0.1)
    assert learnt(table, NAMES, params) == learnt(shuffled, NAMES, params)


def test_what_was_learnt_is_what_the_kernel_is_given() -> None:
    given = with_shares(KernelParams(candidates=200), START | {"als": 0.5})
    assert given.candidates == 200
    assert shares(given) == START | {"als": 0.5}
