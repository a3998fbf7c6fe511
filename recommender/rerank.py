"""From scored candidates to a list: by score, under a rule of diversity.

A list is cut into blocks of ten positions. In each block a category has at
most ``diversity_cap`` items, as long as the candidates allow; where they don't,
the best of the others fill the block. A greedy choice by score under such a
rule takes, of each category, its best items in turn, so that a whole block can
be chosen at once for all users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recommender.arrays import Bools, Floats, Ints, descending, places_in
from recommender.candidates import Candidates

BLOCK = 10
SLOT = 7
"""Place (from 0) in a block that exploration may fill: position 8, 18, …"""
EMPTY = -1


@dataclass(frozen=True)
class Grid:
    """The candidates of each user by falling score.

    All (users, most candidates of a user): ``at`` the candidate's place in the
    flat arrays (-1 beyond the user's last), ``category`` its category (unknown
    ones as one more), ``place`` its place (from 0) within the category.
    """

    at: Ints
    category: Ints
    place: Ints
    categories: int


@dataclass(frozen=True)
class Lists:
    """``columns`` (users, list length): columns of the grid, -1 for empty.
    ``free`` (users, columns): in no list yet. ``length``: of each list."""

    columns: Ints
    free: Bools
    length: Ints


def sort_candidates(
    candidates: Candidates, scores: Floats, item_category: Ints, categories: int
) -> Grid:
    """Candidates by falling score; ties by ordinal, the more popular first."""
    lengths = np.diff(candidates.offsets)
    shape = (len(lengths), int(lengths.max(initial=0)))
    row, column = candidates.row, places_in(candidates.offsets)
    nothing = np.iinfo(np.uint64).max
    keys = np.full(shape, nothing, np.uint64)
    keys[row, column] = (descending(scores) << np.uint64(32)) | column.astype(np.uint64)
    keys.sort(axis=1)
    filled = keys != nothing
    at = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64) + candidates.offsets[:-1, None]
    at = np.where(filled, at, EMPTY)
    category = np.full(shape, categories)
    category[filled] = item_category[candidates.item[at[filled]]]
    category[category < 0] = categories
    return Grid(at, category, _places_by_category(category), categories + 1)


def choose(grid: Grid, length: int, cap: int, explore: bool) -> Lists:
    """Every position but the exploration slots, by score and diversity.

    ``cap`` 0 is no cap. With ``explore`` the slots of positions that the list
    reaches are left empty; there is a free candidate for each of them.
    """
    rows = len(grid.at)
    free = grid.at != EMPTY
    reach = np.minimum(free.sum(axis=1), length)
    columns = np.full((rows, length), EMPTY)
    cap = cap or BLOCK
    every = np.arange(rows)[:, None]
    taken = np.zeros((rows, grid.categories), np.int64)
    for start in range(0, int(reach.max(initial=0)), BLOCK):
        size = np.clip(reach - start, 0, BLOCK)
        slot = explore & (size > SLOT)
        wanted = size - slot
        below = grid.place < taken[every, grid.category] + cap
        allowed = free & below
        picked = allowed & (np.cumsum(allowed, axis=1) <= wanted[:, None])
        lacking = wanted - picked.sum(axis=1)
        if lacking.any():
            rest = free & ~picked
            picked |= rest & (np.cumsum(rest, axis=1) <= lacking[:, None])
        free &= ~picked
        row, column = np.nonzero(picked)
        order = (np.cumsum(picked, axis=1) - 1)[row, column]
        position = start + order + (slot[row] & (order >= SLOT))
        columns[row, position] = column
        np.add.at(taken, (row, grid.category[row, column]), 1)
    return Lists(columns, free, reach)


def has_room(grid: Grid, lists: Lists, start: int, cap: int) -> Bools:
    """(users, columns): whether the block from ``start`` may hold one more of
    the candidate's category."""
    if cap == 0:
        return np.ones(grid.at.shape, np.bool_)
    block = lists.columns[:, start : start + BLOCK]
    rows = np.arange(len(block))[:, None]
    held = np.zeros((len(block), grid.categories), np.int64)
    present = block != EMPTY
    np.add.at(
        held,
        (
            np.broadcast_to(rows, block.shape)[present],
            _categories(grid, block)[present],
        ),
        1,
    )
    return held[rows, grid.category] < cap


def _categories(grid: Grid, columns: Ints) -> Ints:
    return np.take_along_axis(grid.category, np.maximum(columns, 0), axis=1)


def _places_by_category(category: Ints) -> Ints:
    """For each element its place among the row's elements of one category."""
    rows, width = category.shape
    column = np.arange(width)
    order = np.sort((category << 32) | column, axis=1)
    sorted_category, sorted_column = order >> 32, order & 0xFFFFFFFF
    new = np.ones((rows, width), np.bool_)
    new[:, 1:] = sorted_category[:, 1:] != sorted_category[:, :-1]
    start = np.maximum.accumulate(np.where(new, column, 0), axis=1)
    place = np.empty((rows, width), np.int64)
    np.put_along_axis(place, sorted_column, column - start, axis=1)
    return place
