"""From scored candidates to a list: by score, under a rule of diversity.

A list is cut into blocks of ten positions. In each block a category has at
most ``diversity_cap`` items, as long as the candidates allow; where they don't,
the best of the others fill the block. A greedy choice by score under such a
rule takes, of each category, its best items in turn, so that a whole block can
be chosen at once for all users. Exploration then fills its slot of the block from
all that stands nowhere above, before the next block is chosen: a list of many
blocks would else leave it only what nobody wants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from recommender.arrays import (
    Bools,
    Floats,
    Ints,
    descending,
    offsets_of,
    places_in,
)
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
    ones as one more), ``place`` its place (from 0) within the category. Those
    that no source brought are for the exploration slots only: they come last,
    and ``ranked`` (users,) are those before them.
    """

    at: Ints
    ranked: Ints
    category: Ints
    place: Ints
    categories: int


@dataclass(frozen=True)
class Lists:
    """``columns`` (users, list length): columns of the grid, -1 for empty.
    ``length``: of each list."""

    columns: Ints
    length: Ints


FillSlot: TypeAlias = Callable[[int, Ints, Ints, Bools], Ints]
"""What stands in the slot at a position of the list: from that position, the rows
(some of the users) whose slot it is, the ``columns`` of all lists so far, and which
(users, columns) are in none yet, to one free column for each of the rows."""


def sort_candidates(
    candidates: Candidates, scores: Floats, item_category: Ints, categories: int
) -> Grid:
    """Candidates by falling score; ties by ordinal, the more popular first."""
    sourced = candidates.sourced
    lengths = np.diff(candidates.offsets)
    shape = (len(lengths), int(lengths.max(initial=0)))
    row, column = candidates.row, places_in(candidates.offsets)
    nothing = np.iinfo(np.uint64).max
    keys = np.full(shape, nothing, np.uint64)
    keys[row, column] = (
        (~sourced).astype(np.uint64) << np.uint64(63)
        | descending(scores) << np.uint64(31)
        | column.astype(np.uint64)
    )
    keys.sort(axis=1)
    filled = keys != nothing
    at = (keys & np.uint64(0x7FFFFFFF)).astype(np.int64) + candidates.offsets[:-1, None]
    at = np.where(filled, at, EMPTY)
    category = np.full(shape, categories)
    category[filled] = item_category[candidates.item[at[filled]]]
    category[category < 0] = categories
    ranked = np.bincount(row[sourced], minlength=len(lengths))
    return Grid(at, ranked, category, _places_by_category(category), categories + 1)


def choose(
    grid: Grid, length: int, cap: int, fill_slot: FillSlot | None = None
) -> Lists:
    """Lists by score and diversity, block by block, and with ``fill_slot`` the
    slot of each block that a list reaches, filled once the block's others stand.

    ``cap`` 0 is no cap. For each slot there is a free candidate.
    """
    rows, width = grid.at.shape
    ranked = np.arange(width) < grid.ranked[:, None]
    free = grid.at != EMPTY
    grid = replace(grid, place=grid.place.copy())
    reach = np.minimum(grid.ranked, length)
    columns = np.full((rows, length), EMPTY)
    cap = cap or BLOCK
    taken = np.zeros((rows, grid.categories), np.int64)
    for start in range(0, int(reach.max(initial=0)), BLOCK):
        size = np.clip(reach - start, 0, BLOCK)
        slot = (size > SLOT) & (fill_slot is not None)
        row, column, order = _block(grid, free & ranked, taken, size - slot, cap)
        free[row, column] = False
        columns[row, start + order + (slot[row] & (order >= SLOT))] = column
        taken += held(grid, row, column)
        slotted = np.flatnonzero(slot)
        if fill_slot is None or len(slotted) == 0:
            continue
        drawn = fill_slot(start + SLOT, slotted, columns, free)
        columns[slotted, start + SLOT] = drawn
        free[slotted, drawn] = False
        # what is behind it in its category moves up, as if it had never been there
        category = grid.category[slotted]
        alike = category == grid.category[slotted, drawn][:, None]
        grid.place[slotted] -= alike & (np.arange(width) > drawn[:, None])
    return Lists(columns, reach)


def _block(
    grid: Grid, free: Bools, taken: Ints, wanted: Ints, cap: int
) -> tuple[Ints, Ints, Ints]:
    """Row, column and order (from 0) of the ``wanted`` of each row.

    Nearly always they stand close behind the first free column, so the columns
    are looked at a few at a time, and only for the rows that lack some.
    """
    found: list[tuple[Ints, Ints]] = []
    open_ = np.flatnonzero(wanted)
    lacking = wanted[open_]
    start, width = int(free.argmax(axis=1).min(initial=0)), 4 * BLOCK
    while len(open_) and start < free.shape[1]:
        part = slice(start, start + width)
        below = (
            grid.place[open_, part]
            < (taken[open_] + cap)[
                np.arange(len(open_))[:, None], grid.category[open_, part]
            ]
        )
        row, column = _first(free[open_, part] & below, lacking)
        found.append((open_[row], column + start))
        lacking = lacking - np.bincount(row, minlength=len(open_))
        open_, lacking = open_[lacking > 0], lacking[lacking > 0]
        start, width = start + width, 2 * width
    if len(open_):
        rest = free[open_]
        for row, column in found:
            at = np.searchsorted(open_, row)
            at[at == len(open_)] = 0
            here = open_[at] == row
            rest[at[here], column[here]] = False
        row, column = _first(rest, lacking)
        found.append((open_[row], column))
    keys = np.concatenate(
        [np.zeros(0, np.int64)]
        + [row * free.shape[1] + column for row, column in found]
    )
    row, column = np.divmod(np.sort(keys), max(free.shape[1], 1))
    return row, column, places_in(offsets_of(row, len(free)))


def _first(allowed: Bools, wanted: Ints) -> tuple[Ints, Ints]:
    """Row and column of the first ``wanted`` of each row that are allowed."""
    row, column = np.nonzero(allowed)
    kept = places_in(offsets_of(row, len(allowed))) < wanted[row]
    return row[kept], column[kept]


def held(grid: Grid, row: Ints, column: Ints) -> Ints:
    """(users, categories): how many of ``row`` and ``column`` are of each."""
    cell = row * grid.categories + grid.category[row, column]
    count: Ints = np.bincount(cell, minlength=len(grid.at) * grid.categories)
    return count.reshape(len(grid.at), grid.categories)


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
