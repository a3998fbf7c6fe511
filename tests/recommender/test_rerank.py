from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.candidates import Candidates
from recommender.rerank import BLOCK, SLOT, Grid, choose, sort_candidates


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
        ease_score=np.zeros(count, np.float32),
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
    lists = choose(grid, length=3, cap=0)
    assert places(grid, lists.columns, 0) == [1, 3, 2]
    assert places(grid, lists.columns, 1) == [1, 0, -1]
    assert lists.length.tolist() == [3, 2]


def test_a_category_has_only_so_many_items_in_a_block() -> None:
    # ten of category 0 score above ten of category 1
    rows = [(20.0 - at, 0) for at in range(10)] + [(9.0 - at, 1) for at in range(10)]
    grid = grid_of([rows])
    lists = choose(grid, length=20, cap=6)
    assert places(grid, lists.columns, 0) == [
        *[0, 1, 2, 3, 4, 5, 10, 11, 12, 13],
        *[6, 7, 8, 9, 14, 15, 16, 17, 18, 19],
    ]


def test_where_the_candidates_allow_no_diversity_the_best_fill_the_list() -> None:
    grid = grid_of([[(float(at), 0) for at in range(12)]])
    lists = choose(grid, length=12, cap=2)
    assert places(grid, lists.columns, 0) == list(range(11, -1, -1))


def test_position_eight_of_each_block_is_filled_when_the_block_stands() -> None:
    grid = grid_of([[(float(-at), 0) for at in range(30)], [(1.0, 0)] * 7])
    seen = []

    def last(
        position: int, rows: np.ndarray, full: np.ndarray, free: np.ndarray
    ) -> np.ndarray:
        left = np.flatnonzero(free[0]).tolist()
        seen.append((position, rows.tolist(), full[0].tolist(), left))
        return free.shape[1] - 1 - np.argmax(free[rows, ::-1], axis=1)

    lists = choose(grid, length=20, cap=9, fill_slot=last)
    first = [*range(7), 29, 7, 8]
    full = [True, False, False, False]
    assert seen == [
        (7, [0], full, list(range(9, 30))),
        (17, [0], full, list(range(18, 29))),
    ]
    assert places(grid, lists.columns, 0) == [*first, *range(9, 16), 28, 16, 17]
    assert places(grid, lists.columns, 1)[:7] == list(range(7))
    assert lists.length.tolist() == [20, 7]


def test_an_item_taken_by_a_slot_leaves_its_categorys_share_of_later_blocks() -> None:
    # the slot of the first block takes the seventh of category 0
    rows = [(40.0 - at, 0) for at in range(12)] + [(9.0 - at, 1) for at in range(20)]
    grid = grid_of([rows])

    def seventh(
        position: int, rows: np.ndarray, full: np.ndarray, free: np.ndarray
    ) -> np.ndarray:
        return np.where(position < BLOCK, 6, np.argmax(free[rows], axis=1))

    lists = choose(grid, length=20, cap=5, fill_slot=seventh)
    assert places(grid, lists.columns, 0) == [
        *[0, 1, 2, 3, 4, 12, 13, 6, 14, 15],
        *[5, 7, 8, 9, 10, 16, 17, 11, 18, 19],
    ]


def test_unknown_categories_count_as_one_of_their_own() -> None:
    grid = grid_of([[(3.0, -1), (2.0, -1), (1.0, 0)]], categories=1)
    lists = choose(grid, length=3, cap=1)
    assert places(grid, lists.columns, 0) == [0, 1, 2]
    wide = grid_of([[(9.0 - at, -1) for at in range(3)] + [(0.0, 0)] * 9], categories=1)
    lists = choose(wide, length=10, cap=9)
    assert Counter(places(wide, lists.columns, 0))[0] == 1


def nth_free(free: list[int], position: int, salt: int) -> int:
    """Some free one, a different one each time."""
    return free[(salt * 7 + position * 5) % len(free)]


def greedy(
    rows: list[tuple[float, int]], length: int, cap: int, salt: int | None
) -> list[int]:
    """One user, one position at a time: what ``choose`` must equal. With ``salt``
    the slots get ``nth_free``."""
    left = sorted(range(len(rows)), key=lambda at: (-np.float32(rows[at][0]), at))
    by_score = list(left)
    reach = min(length, len(rows))
    found = [-1] * length
    for start in range(0, reach, BLOCK):
        end = min(start + BLOCK, reach)
        slot = start + SLOT if salt is not None and start + SLOT < end else None
        open_ = [at for at in range(start, end) if at != slot]
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
        if slot is not None and salt is not None:
            columns = [by_score.index(at) for at in left]
            found[slot] = by_score[nth_free(columns, slot, salt)]
            left.remove(found[slot])
    return found


@settings(deadline=None, max_examples=120)
@given(
    users=st.lists(
        st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 2)), max_size=45),
        min_size=1,
        max_size=4,
    ),
    length=st.integers(1, 30),
    cap=st.integers(1, 10),
    salt=st.none() | st.integers(0, 50),
)
def test_whole_blocks_are_chosen_as_one_position_at_a_time_would(
    users: list[list[tuple[int, int]]], length: int, cap: int, salt: int | None
) -> None:
    rows = [[(float(score), kind) for score, kind in user] for user in users]
    grid = grid_of(rows)

    def fill(
        position: int, rows: np.ndarray, full: np.ndarray, free: np.ndarray
    ) -> np.ndarray:
        assert salt is not None
        every = [np.flatnonzero(one).tolist() for one in free[rows]]
        return np.array([nth_free(one, position, salt) for one in every])

    lists = choose(grid, length, cap, None if salt is None else fill)
    for at, user in enumerate(rows):
        assert places(grid, lists.columns, at) == greedy(user, length, cap, salt)


@pytest.mark.parametrize("users", [[[]], [[], [(1.0, 0)]]])
def test_users_without_candidates_get_an_empty_list(
    users: list[list[tuple[float, int]]],
) -> None:
    grid = grid_of(users)
    lists = choose(grid, length=5, cap=2)
    assert (lists.columns[0] == -1).all()
