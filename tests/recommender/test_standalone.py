from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from recommender.embeddings import AlsParams
from recommender.history import INSTANT, History, read_history
from recommender.inner_split import Split, split
from recommender.params import KernelParams
from recommender.standalone import (
    Recipe,
    fitted,
    held_out,
    labelled_candidates,
    learnt_ranker,
    read_items,
    suited,
    with_blend,
    with_trend,
)
from tests.recommender.worlds import FEATURES, surface

NOW = datetime(2025, 1, 10, tzinfo=UTC)
RECIPE = Recipe(
    features=FEATURES,
    surface=surface(length=5),
    als=AlsParams(factors=8, regularization=0.1, iterations=5),
    kernel=KernelParams(candidates=20),
    threads=1,
)


def history(*, timed: bool = True, people: int = 40, items: int = 20) -> History:
    """Everyone takes items of their own parity, a few left out."""
    rows = [
        (f"u{person}", f"i{item:02}", (person * 31 + item * 17) % 240)
        for person in range(people)
        for item in range(person % 2, items, 2)
        if (person // 2 + item // 2) % 5
    ]
    columns = {
        "user_id": [user for user, _, _ in rows],
        "item_id": [item for _, item, _ in rows],
    }
    if timed:
        columns["occurred_at"] = [NOW - timedelta(hours=ago) for *_, ago in rows]
    return read_history(pa.table(columns), {})


@pytest.mark.parametrize("timed", [True, False])
def test_labels_come_after_what_is_learnt_from(timed: bool) -> None:
    whole = history(timed=timed)
    inner = split(whole, 0.2, 1000)
    assert len(inner.before) + len(inner.after) == len(whole)
    assert len(inner.after) == pytest.approx(0.2 * len(whole), rel=0.3)
    if timed:
        assert inner.before.as_of <= inner.as_of
        assert inner.before.at.max() < inner.after.at.min()


def test_without_times_a_sorted_log_leaves_out_nothing_in_particular() -> None:
    """Everyone has the same hundred items, sorted: the last of them are labels no
    more often than others."""
    rows = [(f"u{at:02}", f"i{item:03}") for at in range(100) for item in range(100)]
    table = pa.table(
        {"user_id": [row[0] for row in rows], "item_id": [row[1] for row in rows]}
    )
    inner = split(read_history(table, {}), 0.1, 1000)
    assert len(inner.after) == 1000
    # uniform places have mean 49.5 and deviation 29
    assert inner.after.item.mean() == pytest.approx(49.5, abs=4 * 29 / 1000**0.5)


def test_without_times_all_of_a_history_counts_alike() -> None:
    assert suited(RECIPE, history()) == RECIPE
    recipe = suited(RECIPE, history(timed=False))
    assert recipe.kernel.recent_items == recipe.recent_items > 100
    assert 0.5 ** (recipe.recent_items / recipe.kernel.recent_half_life) > 0.999


def test_who_is_served_decides_what_is_held_out() -> None:
    """The people of the last hours are asked about what comes next, everybody
    about how each history goes on."""
    rows = [(f"u{at // 4}", f"i{at % 7}", 100 - at) for at in range(80)]
    columns = {
        "user_id": [user for user, _, _ in rows],
        "item_id": [item for _, item, _ in rows],
        "occurred_at": [NOW - timedelta(hours=ago) for *_, ago in rows],
    }
    whole = read_history(pa.table(columns), {})
    everyone = np.ones(len(whole.user_ids), np.bool_)
    each = split(whole, 0.1, 1000, everyone)
    assert len(np.unique(each.after.user)) == 20
    assert each.as_of == whole.as_of
    late = np.zeros(len(everyone), np.bool_)
    late[whole.user[-1]] = True
    next_ = split(whole, 0.1, 1000, late)
    assert next_.before.at.max() < next_.after.at.min()


def test_a_pair_is_never_on_both_sides() -> None:
    pairs = [("u", "a"), ("u", "b"), ("u", "c"), ("u", "b")]
    columns = {
        "user_id": [user for user, _ in pairs],
        "item_id": [item for _, item in pairs],
    }
    inner = split(read_history(pa.table(columns), {}), 0.1, 1000)
    assert set(inner.before.item) | set(inner.after.item) == {0, 1, 2}
    assert not set(inner.before.item) & set(inner.after.item)
    assert len(set(inner.after.item)) == 1


@pytest.mark.parametrize("timed", [True, False])
def test_lists_hold_what_was_left_out(timed: bool) -> None:
    whole = history(timed=timed)
    items = read_items(None, whole)
    examples = labelled_candidates(held_out(whole, RECIPE), items, RECIPE)
    ranker = learnt_ranker(examples, RECIPE)
    assert ranker is not None
    with fitted(whole, items, whole.as_of, RECIPE, ranker) as now:
        users = pa.array(["u0", "u1", "nobody"])
        people = now.users(users)
        assert people["recent_items"].to_pylist()[2] is None
        for kernel in (now.kernel(), now.kernel(ranked=False)):
            lists = kernel.lists(people.to_batches()[0], "home").to_pylist()
            assert set(lists[0]["item_ids"][:2]) == {"i00", "i10"}
            assert set(lists[1]["item_ids"][:2]) == {"i01", "i11"}
            assert len(lists[2]["item_ids"]) == 5


def test_a_stage_at_an_instant_knows_no_item_that_came_later() -> None:
    whole = history()
    inner = split(whole.only(whole.item != 3), 0.5, 1000)
    with fitted(inner.before, read_items(None, whole), inner.as_of, RECIPE) as then:
        known = then.build.item_ids.to_pylist()
    assert "i03" not in known
    seen = whole.item_ids.take(pa.array(np.unique(inner.before.item)))
    assert set(known) == set(seen.to_pylist())


def test_pairs_are_ranked_as_they_would_be_in_a_list() -> None:
    whole = history()
    with fitted(whole, read_items(None, whole), whole.as_of, RECIPE) as now:
        people = now.users(pa.array(["u0", "u1"]))
        listed = now.kernel().lists(people.to_batches()[0], "home").to_pylist()
        pairs = pa.table(
            {
                "user_id": ["u0"] * 5 + ["u1"],
                "item_id": [*sorted(listed[0]["item_ids"]), "unheard of"],
            }
        )
        ranked = now.kernel().ranked(people, pairs)
    assert ranked["item_id"].to_pylist() == listed[0]["item_ids"]
    assert ranked["rank"].to_pylist() == [1, 2, 3, 4, 5]


def test_the_catalogue_adds_items_and_says_when_they_were_published() -> None:
    whole = history()
    catalogue = pa.table(
        {
            "item_id": ["i00", "fresh", "gone"],
            "published_at": pa.array([NOW, NOW, None], INSTANT),
            "is_active": [True, None, False],
        }
    )
    items = read_items(catalogue, whole)
    assert len(items) == 22
    rows = {row["item_id"]: row for row in items.to_pylist()}
    assert rows["i00"]["published_at"] == rows["fresh"]["published_at"]
    assert rows["i00"]["published_at"] > rows["i01"]["published_at"]
    assert rows["fresh"]["is_active"]
    assert not rows["gone"]["is_active"]


def test_nothing_to_learn_from() -> None:
    columns = {"user_id": ["u", "v"], "item_id": ["a", "a"]}
    alone = read_history(pa.table(columns), {})
    inner = held_out(alone, RECIPE)
    examples = labelled_candidates(inner, read_items(None, alone), RECIPE)
    assert learnt_ranker(examples, RECIPE) is None
    assert with_blend(examples, RECIPE) == RECIPE
    assert with_trend(inner, RECIPE) == RECIPE


def test_the_trend_is_as_fast_as_the_world() -> None:
    """Each day other items are what everyone takes, each fewer than before:
    counting long means yesterday's."""
    rows = [
        (f"u{person}", f"day{ago}-{item}", 24 * ago + person / 100)
        for ago in range(1, 4)
        for person in range(10 * ago)
        for item in range(25)
    ]
    rows += [("u0", f"day0-{item}", 1) for item in range(25)]
    rows += [(f"v{person}", f"day3-{person}", 24 * 9) for person in range(5)]
    rows += [
        (f"v{person}", f"day0-{item}", 0) for person in range(5) for item in range(5)
    ]
    columns = {
        "user_id": [user for user, _, _ in rows],
        "item_id": [item for _, item, _ in rows],
        "occurred_at": [NOW - timedelta(hours=ago) for *_, ago in rows],
    }
    whole = read_history(pa.table(columns), {})
    late = whole.at == whole.at.max()
    inner = Split(whole.only(~late), whole.only(late), NOW)
    slow = replace(RECIPE, trend_half_life_hours=336.0)
    # Of those that are fast enough the one nearest to what there was before.
    assert with_trend(inner, slow).trend_half_life_hours == 4


def test_labels_are_bounded() -> None:
    whole = history()
    inner = held_out(whole, replace(RECIPE, training_users=3))
    assert len(np.unique(inner.after.user)) == 3
    assert len(split(whole, 0.5, 7).after) >= 7
    assert len(split(whole, 0.5, 7).after) < 20
