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
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from recommender.arrays import (
    NOTHING,
    Bools,
    Floats,
    Ints,
    Keys,
    descending,
    offsets_of,
    padded_rows,
    places_in,
    whole,
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


FillSlot: TypeAlias = Callable[[int, Ints, Bools, Bools], Ints]
"""What stands in the slot at a position of the list: from that position, the rows
(some of the users) whose slot it is, which (users, categories) have their share of
the block already, and which (users, columns) are in no list yet, to one free column
for each of the rows."""


def sort_candidates(
    candidates: Candidates, scores: Floats, item_category: Ints, categories: int
) -> Grid:
    """Candidates by falling score; ties by ordinal, the more popular first."""
    sourced, offsets = candidates.sourced, candidates.offsets
    keys: Keys = (~sourced).astype(np.uint64) << np.uint64(63)
    keys |= descending(scores) << np.uint64(31)
    keys |= places_in(offsets).astype(np.uint64)
    keys = np.sort(padded_rows(keys, offsets), axis=1)
    filled = keys != NOTHING
    at = (keys & np.uint64(0x7FFFFFFF)).astype(np.int64) + offsets[:-1, None]
    at[~filled] = EMPTY
    category = np.full(at.shape, categories)
    category[filled] = item_category.take(candidates.item.take(at[filled]))
    category[category < 0] = categories
    ranked = np.bincount(candidates.row[sourced], minlength=len(at))
    return Grid(at, ranked, category, _places_by_category(category), categories + 1)


def choose(
    grid: Grid, length: int, cap: int, fill_slot: FillSlot | None = None
) -> Lists:
    """Lists by score and diversity, block by block, and with ``fill_slot`` the
    slot of each block that a list reaches, filled once the block's others stand.

    ``cap`` 0 is no cap. For each slot there is a free candidate.
    """
    rows, width = grid.at.shape
    cap = cap or BLOCK
    pool = _Pool(
        ranked=np.arange(width) < grid.ranked[:, None],
        free=grid.at != EMPTY,
        place=grid.place.copy(),
        cell=grid.category + np.arange(rows)[:, None] * grid.categories,
        room=np.full((rows, grid.categories), cap),
    )
    reach = np.minimum(grid.ranked, length)
    columns = np.full((rows, length), EMPTY)
    for start in range(0, int(reach.max(initial=0)), BLOCK):
        size = np.maximum(np.minimum(reach - start, BLOCK), 0)
        slot = (size > SLOT) & (fill_slot is not None)
        row, column, order = pool.block(size - slot)
        columns[row, start + order + (slot[row] & (order >= SLOT))] = column
        held = pool.take(row, column)
        slotted = np.flatnonzero(slot)
        if fill_slot is None or len(slotted) == 0:
            continue
        drawn = fill_slot(start + SLOT, slotted, held >= cap, pool.free)
        columns[slotted, start + SLOT] = drawn
        pool.take_out(slotted, drawn)
    return Lists(columns, reach)


@dataclass(frozen=True)
class _Pool:
    """What is left to choose from, changed in place.

    All (users, candidates): which come from a source, which are in no list yet,
    the place of each within its category and the cell of that in ``room`` (users,
    categories), the places of each category that the next block may reach.
    """

    ranked: Bools
    free: Bools
    place: Ints
    cell: Ints
    room: Ints

    def take(self, row: Ints, column: Ints) -> Ints:
        """Into the block; gives (users, categories) how many of each it has."""
        self.free[row, column] = False
        held: Ints = np.bincount(self.cell[row, column], minlength=self.room.size)
        held = held.reshape(self.room.shape)
        self.room[:] += held
        return held

    def take_out(self, row: Ints, column: Ints) -> None:
        """Into a slot; what is behind it in its category moves up, as if it had
        never been there."""
        self.free[row, column] = False
        behind = slice(int(column.min()) + 1, None)
        rows = whole(row, len(self.free))
        moved = self.cell[rows, behind] == self.cell[row, column][:, None]
        moved &= np.arange(self.free.shape[1])[behind] > column[:, None]
        self.place[rows, behind] -= moved

    def block(self, wanted: Ints) -> tuple[Ints, Ints, Ints]:
        """Row, column and order (from 0) of the ``wanted`` of each row.

        Nearly always they stand close behind the first free column, so the columns
        are looked at a few at a time, and only for the rows that lack some.
        """
        free = self.free & self.ranked
        found: list[tuple[Ints, Ints]] = []
        open_ = np.flatnonzero(wanted)
        lacking = wanted[open_]
        start = int(free.argmax(axis=1).min(initial=free.shape[1]))
        width = 4 * BLOCK
        while len(open_) and start < free.shape[1]:
            part = slice(start, start + width)
            rows = whole(open_, len(free))
            room = self.room.ravel().take(self.cell[rows, part])
            row, column = _first(
                free[rows, part] & (self.place[rows, part] < room), lacking
            )
            found.append((open_[row], column + start))
            lacking = lacking - np.bincount(row, minlength=len(open_))
            open_, lacking = open_[lacking > 0], lacking[lacking > 0]
            start, width = start + width, 2 * width
        if len(open_):
            for row, column in found:
                free[row, column] = False
            row, column = _first(free[open_], lacking)
            found.append((open_[row], column))
        keys = np.concatenate(
            [np.zeros(0, np.int64)]
            + [row * free.shape[1] + column for row, column in found]
        )
        row, column = np.divmod(np.sort(keys), max(free.shape[1], 1))
        return row, column, places_in(offsets_of(row, len(free)))


def _first(allowed: Bools, wanted: Ints) -> tuple[Ints, Ints]:
    """Row and column of the first ``wanted`` of each row that are allowed."""
    reached = np.cumsum(allowed, axis=1) <= wanted[:, None]
    row, column = np.nonzero(allowed & reached)
    return row, column


def _places_by_category(category: Ints) -> Ints:
    """For each element its place among the row's elements of one category."""
    rows, width = category.shape
    column = np.arange(width)
    order = np.sort((category << 32) | column, axis=1)
    sorted_category, sorted_column = order >> 32, order & 0xFFFFFFFF
    new = np.ones((rows, width), np.bool_)
    new[:, 1:] = sorted_category[:, 1:] != sorted_category[:, :-1]
    start = np.maximum.accumulate(np.where(new, column, 0), axis=1)
    place = np.empty(rows * width, np.int64)
    place[(sorted_column + np.arange(rows)[:, None] * width).ravel()] = (
        column - start
    ).ravel()
    return place.reshape(rows, width)
