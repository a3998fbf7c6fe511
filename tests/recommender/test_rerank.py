from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.candidates import Candidates
from recommender.rerank import BLOCK, Grid, choose, sort_candidates


def grid_of(users: list[list[tuple[float, int]]], categories: int = 3) -> Grid:
    """A grid from (score, category) of each user's candidates."""
    lengths = [len(rows) for rows in users]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flat = [pair for rows in users for pair in rows]
    count = len(flat)
    candidates = Candidates(
        offsets=offsets,
        row=np.repeat(np.arange(len(users)), lengths),
        item=np.arange(count),
        source=np.zeros(count, np.int64),
        ranks=np.zeros((count, 1), np.int64),
        als_cosine=np.zeros(count, np.float32),
        item_item_score=np.zeros(count, np.float32),
    )
    scores = np.array([score for score, _ in flat], np.float32)
    category = np.array([kind for _, kind in flat], np.int64)
    return sort_candidates(candidates, scores, category, categories)


def places(grid: Grid, columns: np.ndarray, user: int) -> list[int]:
    """The list of ``user`` as places in the user's own candidates; -1 empty."""
    first = grid.at[:user]
    before = int((first >= 0).sum())
    return [
        -1 if column < 0 else int(grid.at[user, column]) - before
        for column in columns[user]
    ]


def test_without_a_rule_the_list_is_by_score_and_ties_keep_their_order() -> None:
    grid = grid_of([[(0.1, 0), (0.9, 0), (0.5, 0), (0.9, 1)], [(-1.0, 0), (-0.5, 0)]])
    lists = choose(grid, length=3, cap=0, explore=False)
    assert places(grid, lists.columns, 0) == [1, 3, 2]
    assert places(grid, lists.columns, 1) == [1, 0, -1]
    assert lists.length.tolist() == [3, 2]


def test_a_category_has_only_so_many_items_in_a_block() -> None:
    # ten of category 0 score above ten of category 1
    rows = [(20.0 - at, 0) for at in range(10)] + [(9.0 - at, 1) for at in range(10)]
    grid = grid_of([rows])
    lists = choose(grid, length=20, cap=6, explore=False)
    assert places(grid, lists.columns, 0) == [
        *[0, 1, 2, 3, 4, 5, 10, 11, 12, 13],
        *[6, 7, 8, 9, 14, 15, 16, 17, 18, 19],
    ]


def test_where_the_candidates_allow_no_diversity_the_best_fill_the_list() -> None:
    grid = grid_of([[(float(at), 0) for at in range(12)]])
    lists = choose(grid, length=12, cap=2, explore=False)
    assert places(grid, lists.columns, 0) == list(range(11, -1, -1))


def test_exploration_leaves_position_eight_of_each_block_it_reaches() -> None:
    grid = grid_of([[(float(-at), 0) for at in range(30)], [(1.0, 0)] * 7])
    lists = choose(grid, length=20, cap=0, explore=True)
    first = places(grid, lists.columns, 0)
    assert [at for at, place in enumerate(first) if place == -1] == [7, 17]
    assert [place for place in first if place >= 0] == list(range(18))
    assert lists.free[0].sum() == 12
    assert places(grid, lists.columns, 1)[:7] == list(range(7))
    assert lists.length.tolist() == [20, 7]


def test_unknown_categories_count_as_one_of_their_own() -> None:
    grid = grid_of([[(3.0, -1), (2.0, -1), (1.0, 0)]], categories=1)
    lists = choose(grid, length=3, cap=1, explore=False)
    assert places(grid, lists.columns, 0) == [0, 1, 2]
    wide = grid_of([[(9.0 - at, -1) for at in range(3)] + [(0.0, 0)] * 9], categories=1)
    lists = choose(wide, length=10, cap=9, explore=False)
    assert Counter(places(wide, lists.columns, 0))[0] == 1


def greedy(
    rows: list[tuple[float, int]], length: int, cap: int, explore: bool
) -> list[int]:
    """One user, one position at a time: what ``choose`` must equal."""
    left = sorted(range(len(rows)), key=lambda at: (-np.float32(rows[at][0]), at))
    reach = min(length, len(rows))
    found = [-1] * length
    for start in range(0, reach, BLOCK):
        open_ = [
            at
            for at in range(start, min(start + BLOCK, reach))
            if not (explore and at % BLOCK == 7)
        ]
        picked: list[int] = []
        held: Counter[int] = Counter()
        for at in left:
            if len(picked) < len(open_) and held[rows[at][1]] < cap:
                picked.append(at)
                held[rows[at][1]] += 1
        others = [at for at in left if at not in picked]
        picked += others[: len(open_) - len(picked)]
        for position, at in zip(open_, sorted(picked, key=left.index), strict=True):
            found[position] = at
        left = [at for at in left if at not in picked]
    return found


@settings(deadline=None, max_examples=80)
@given(
    users=st.lists(
        st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 2)), max_size=45),
        min_size=1,
        max_size=4,
    ),
    length=st.integers(1, 30),
    cap=st.integers(1, 10),
    explore=st.booleans(),
)
def test_whole_blocks_are_chosen_as_one_position_at_a_time_would(
    users: list[list[tuple[int, int]]], length: int, cap: int, explore: bool
) -> None:
    rows = [[(float(score), kind) for score, kind in user] for user in users]
    grid = grid_of(rows)
    lists = choose(grid, length, cap, explore)
    for at, user in enumerate(rows):
        assert places(grid, lists.columns, at) == greedy(user, length, cap, explore)
        used = [column for column in lists.columns[at] if column >= 0]
        assert not lists.free[at, used].any()


@pytest.mark.parametrize("users", [[[]], [[], [(1.0, 0)]]])
def test_users_without_candidates_get_an_empty_list(
    users: list[list[tuple[float, int]]],
) -> None:
    grid = grid_of(users)
    lists = choose(grid, length=5, cap=2, explore=True)
    assert (lists.columns[0] == -1).all()
