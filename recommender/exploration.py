"""The exploration slot: items that too few have seen, drawn with a known chance.

A slot is filled when everything above it and the rest of its block of the list
stand (``recommender.rerank``). Its item is drawn from a pool of the user's
remaining candidates with few impressions: first the ones within reach, then those
with the highest upper confidence bound of a click by this user. On the scale of
log-odds that bound is what the ranker expects of the user and the item, plus
``explore_width`` standard deviations of what is known of the item. An item whose
bound is below that of the best that could stand there instead stays out, for even
if it is as good as one may hope it earns less. (Without a ranker, or for people of
whom nothing is known, the order says nothing about clicks: the item's own log-odds
are added to it, and nothing stays out.) With B the bounds of the pool, T the
temperature and f the floor, an item's chance is

    (1 - f) softmax(B / T) + f / |pool|

and that number is stored: given what stood before the draw, it is exact.
The floor is higher for people of whom little is known. The draw is repeatable:
its random number is a hash of the seed, the user's rec_id (user, surface and
build) and the slot.

Within reach of a user are, besides what the sources bring, a few items with few
impressions: a stretch of all of them that begins at a place drawn for the user.
So each is weighed for some people, even where no source brings it to anyone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feedloop.contracts.lists import EXPECTED
from recommender.arrays import (
    NOTHING,
    Bools,
    Doubles,
    Floats,
    Ints,
    Keys,
    contains,
    descending,
    rows_of,
    whole,
)
from recommender.build import Build
from recommender.candidates import Candidates
from recommender.pairs import pair_keys
from recommender.rerank import BLOCK, EMPTY, SLOT, Grid, Lists, choose
from recommender.users import Users

REACH = 1_000
"""Where a user's stretch begins is drawn apart from the slots' draws."""


@dataclass(frozen=True)
class Explored:
    """All (users, list length): the probability with which the item was chosen
    for its position, whether exploration chose it, and among how many items;
    and (users, list length, EXPECTED) what was expected of the draw."""

    propensities: Floats
    explored: Bools
    pool_sizes: Ints
    expectations: Floats


@dataclass(frozen=True)
class _Order:
    """In which order a user's candidates come into the pool of a slot.

    All (users, as many as the pools of all slots can ask for): which there are (the
    others have too many impressions), their cells in (users, columns of the grid)
    and those of their categories in (users, categories), their bounds, their weights
    in a draw and their click-through.
    """

    known: Bools
    cells: Ints
    categories: Ints
    bounds: Doubles
    weights: Doubles
    rates: Doubles

    def first(self, rows: Ints, count: int) -> _Order:
        """The first ``count`` of ``rows``, rising."""
        part = (whole(rows, len(self.known)), slice(count))
        return _Order(
            self.known[part],
            self.cells[part],
            self.categories[part],
            self.bounds[part],
            self.weights[part],
            self.rates[part],
        )


def within_reach(users: Users, build: Build, noise: Keys) -> tuple[Ints, Ints]:
    """Rows and ordinals of the ``explore_reach`` items a user (fewer where some
    are consumed) that may be explored whether a source brings them or not.

    ``noise``: one random 64-bit number a user.
    """
    items = build.explorable
    count = min(build.params.explore_reach, len(items))
    if count == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    start = (uniform(noise, REACH) * len(items)).astype(np.int64)
    item = items[(start[:, None] + np.arange(count)) % len(items)].ravel()
    row = np.repeat(np.arange(len(users)), count)
    consumed = pair_keys(rows_of(users.consumed_offsets), users.consumed)
    kept = ~contains(np.sort(consumed), pair_keys(row, item))
    return row[kept], item[kept]


def explore(
    grid: Grid,
    length: int,
    cap: int,
    candidates: Candidates,
    bounds: Doubles,
    build: Build,
    noise: Keys,
    floor: Doubles,
    *,
    learned: bool,
) -> tuple[Lists, Explored]:
    """Lists with their slots filled, and how each item came to its position.

    ``length`` and ``cap``: as in ``choose``. ``bounds`` (candidates,):
    ``upper_bounds``. ``noise``: one random 64-bit number a user; ``floor``
    (users,): f; ``learned``: as in ``upper_bounds``. A slot prefers items whose
    category has room in its block. Where the pool is empty, the best remaining
    candidate takes the slot, with probability 1.
    """
    told = nothing_explored(len(grid.at), length)
    if len(candidates) == 0:
        return choose(grid, length, cap), told
    params = build.params
    order = _order(grid, candidates, bounds, build, params.explore_pool + length)

    def fill_slot(position: int, rows: Ints, full: Bools, free: Bools) -> Ints:
        # no more than these can be in the list or in the pool by now
        offered = order.first(rows, params.explore_pool + position - SLOT + BLOCK)
        left = offered.known & free.ravel().take(offered.cells)
        left &= np.cumsum(left, axis=1) <= params.explore_pool
        roomy = left & ~full.ravel().take(offered.categories)
        some_roomy: Bools = np.any(roomy, axis=1)
        allowed = np.where(some_roomy[:, None], roomy, left)
        best = _best(grid, free, full, rows)
        if learned:
            bar = bounds.take(grid.at[rows, best])
            allowed &= offered.bounds >= bar[:, None]
        count = allowed.sum(axis=1)
        chance = chances(offered.weights, allowed, floor[rows])
        drawn = _draw(chance, uniform(noise[rows], position // BLOCK))
        cell = (np.arange(len(rows)), drawn)
        chosen: Ints = offered.cells[cell] - rows * grid.at.shape[1]
        some = count > 0
        chosen[~some] = best[~some]
        at = rows[some]
        told.explored[at, position] = True
        told.pool_sizes[at, position] = count[some]
        told.propensities[at, position] = chance[cell][some]
        expected = _expected(offered.rates, allowed, chance, drawn, count)
        told.expectations[at, position] = expected[some]
        return chosen

    return choose(grid, length, cap, fill_slot), told


def nothing_explored(users: int, length: int) -> Explored:
    """Every item is where it is for certain."""
    shape = (users, length)
    return Explored(
        propensities=np.ones(shape, np.float32),
        explored=np.zeros(shape, np.bool_),
        pool_sizes=np.ones(shape, np.int64),
        expectations=np.zeros((*shape, EXPECTED), np.float32),
    )


def upper_bounds(
    candidates: Candidates, scores: Floats, build: Build, *, learned: bool
) -> Doubles:
    """(candidates,): of the log-odds of a click, up to a constant for each user.

    ``scores`` are the order of the list; ``learned`` says that a ranker gave
    them, which knows how often the items are clicked.
    """
    item = candidates.item
    expected = scores.astype(np.float64)
    if not learned:
        rate = build.click_through[item]
        expected += np.log(rate / (1 - rate))
    return expected + build.params.explore_width * build.uncertainty[item]


def floors(users: Users, build: Build) -> Doubles:
    """(users,): how much of the draw is even, more for people little known."""
    params = build.params
    unsure = users.unsure(params.sure_from_items)
    return np.where(unsure, params.explore_floor_unsure, params.explore_floor)


def weights_of(bounds: Doubles, temperature: float) -> Doubles:
    """(users, candidates): what each weighs in a softmax, its user's highest 1."""
    top = bounds.max(axis=1, keepdims=True, initial=-1e300)
    # what is lower still weighs as good as nothing, and not nothing
    weights: Doubles = np.exp(np.maximum((bounds - top) / temperature, -700))
    return weights


def chances(weights: Doubles, allowed: Bools, floor: Doubles) -> Doubles:
    """(users, pool): the probability of each; zero where it isn't allowed."""
    weights = allowed * weights
    total = weights.sum(axis=1)
    count = allowed.sum(axis=1)
    softmax = np.divide(1 - floor, total, out=np.zeros_like(total), where=total > 0)
    even = np.divide(floor, count, out=np.zeros_like(total), where=count > 0)
    weights *= softmax[:, None]
    weights += allowed * even[:, None]
    return weights


def uniform(noise: Keys, slot: int) -> Doubles:
    """One number in [0, 1) for each of ``noise`` and the slot."""
    mixed = mix(noise + np.uint64((slot * 0x9E3779B97F4A7C15) % 2**64))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mix(values: Keys) -> Keys:
    """SplitMix64's finaliser (Steele et al., 2014): a well-mixed hash."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = values ^ (values >> np.uint64(31))
    return mixed


def _order(
    grid: Grid, candidates: Candidates, bounds: Doubles, build: Build, most: int
) -> _Order:
    users, width = grid.at.shape
    eligible = build.under_shown.take(candidates.item)
    first = np.where(candidates.sourced, bounds, np.inf).astype(np.float32)
    keys = np.where(eligible, descending(first) << np.uint64(32), NOTHING)
    keys = np.where(grid.at == EMPTY, NOTHING, keys[grid.at])
    keys |= np.arange(width, dtype=np.uint64)
    keys.sort(axis=1)
    # of one width whatever the batch, so that sums over a row are too
    best = np.full((users, most), NOTHING)
    best[:, :width] = keys[:, :most]
    known = best >> np.uint64(32) != NOTHING >> np.uint64(32)
    row = np.arange(users)[:, None]
    cells = np.where(known, (best & np.uint64(0xFFFFFFFF)).astype(np.int64), 0)
    cells += row * width
    at = np.where(known, grid.at.ravel().take(cells), 0)
    item = candidates.item.take(at)
    category = grid.category.ravel().take(cells)
    bounds = np.where(known, bounds.take(at), -np.inf)
    return _Order(
        known=known,
        cells=cells,
        categories=category + row * grid.categories,
        bounds=bounds,
        weights=weights_of(bounds, build.params.explore_temperature),
        rates=np.where(known, build.click_through.take(item), 0),
    )


def _draw(chance: Doubles, uniforms: Doubles) -> Ints:
    """The place in each row whose share of [0, 1) holds its uniform number."""
    edges = np.cumsum(chance, axis=1)
    target = (uniforms * edges[:, -1])[:, None]
    drawn: Ints = np.argmax(edges > target, axis=1)
    return drawn


def _expected(
    rates: Doubles, allowed: Bools, chance: Doubles, drawn: Ints, count: Ints
) -> Doubles:
    """(users, EXPECTED): the rate of what was drawn, the mean by chance, and
    the plain mean of the ``count`` that were allowed."""
    return np.stack(
        [
            rates[np.arange(len(rates)), drawn],
            (chance * rates).sum(axis=1),
            (allowed * rates).sum(axis=1) / np.maximum(count, 1),
        ],
        axis=1,
    )


def _best(grid: Grid, free: Bools, full: Bools, rows: Ints) -> Ints:
    """The free column of the highest score of each of ``rows``, with room where
    there is any."""
    users = whole(rows, len(free))
    # nearly always it stands close behind the first free column
    start = int(free[users].argmax(axis=1).min(initial=free.shape[1]))
    near = slice(start, start + 4 * BLOCK)
    cells = grid.category[users, near] + rows[:, None] * grid.categories
    roomy = free[users, near] & ~full.ravel().take(cells)
    best: Ints = start + roomy.argmax(axis=1)
    far = np.flatnonzero(~roomy.any(axis=1))
    if len(far):
        best[far] = _best_anywhere(grid, free, full, rows[far])
    return best


def _best_anywhere(grid: Grid, free: Bools, full: Bools, rows: Ints) -> Ints:
    """As ``_best``, among all columns."""
    free = free[rows]
    roomy: Bools = free & ~full[rows[:, None], grid.category[rows]]
    some = np.any(roomy, axis=1, keepdims=True)
    best: Ints = np.argmax(np.where(some, roomy, free), axis=1)
    return best
