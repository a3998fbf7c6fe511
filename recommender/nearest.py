"""The items with the highest inner product with a user's vector.

The lengths of ALS factors are spread over orders of magnitude, and few of the
longest items hold most of what is nearest to anyone: of 100,000 items the
longest sixth holds 97 % of the first 300. So the longest ones, as many as
``exact_up_to``, are searched exactly, by one matrix product for all users of a
chunk, and only the others through the index, whose graph finds its way well
where the lengths are alike. How many may be found there a build measures; the
index is asked for half as many again, for people aren't the items it tried.
"""

from __future__ import annotations

import math

import numpy as np
from usearch.index import BatchMatches, Index

from recommender.arrays import (
    Floats,
    Ints,
    Keys,
    contains,
    descending,
    offsets_of,
    places_in,
)
from recommender.build import UNIT, Build
from recommender.pairs import PLACE, PLACE_BITS, ROW_AT, pair_keys, split_pairs
from recommender.users import Users

GROUPS = 4
"""Groups for each item that is wanted: among four times as many as are wanted, a
seventh more items than wanted are at the bound or above."""
AGAIN = 1.5
LEAST_ASKED = 50

MOST_PASSED_OVER = 4096
"""Consumed items that a search of the index makes up for; who has consumed
more may get fewer candidates from it, and others instead."""


def nearest(
    users: Users, build: Build, consumed: Keys, quota: int
) -> tuple[Keys, Ints]:
    """Keys (row, ordinal) and ranks from 0 of up to ``quota`` active items a
    user, none of the ``consumed`` ones (sorted keys)."""
    rows = np.flatnonzero(users.has_vector)
    if len(rows) == 0 or len(build.vector_items) == 0 or quota == 0:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    row, item, score = _among_longest(users, build, consumed, quota, rows)
    if build.index is not None:
        found = _indexed(users, build, build.index, consumed, quota, rows)
        row = np.concatenate([row, found[0]])
        item = np.concatenate([item, found[1]])
        score = np.concatenate([score, found[2]])
    return by_score(row, item, score, len(users), quota)


def by_score(
    row: Ints, item: Ints, score: Floats, users: int, quota: int
) -> tuple[Keys, Ints]:
    """Keys (row, ordinal) and ranks from 0 of the ``quota`` best of each user."""
    order = np.sort(
        (row.astype(np.uint64) << ROW_AT)
        | (descending(score) << PLACE_BITS)
        | np.arange(len(row), dtype=np.uint64)
    )
    row = (order >> ROW_AT).astype(np.int64)
    rank = places_in(offsets_of(row, users))
    kept = rank < quota
    item = item[(order[kept] & PLACE).astype(np.int64)]
    return pair_keys(row[kept], item), rank[kept]


def _among_longest(
    users: Users, build: Build, consumed: Keys, quota: int, rows: Ints
) -> tuple[Ints, Ints, Floats]:
    """``best_of`` the inner products with ``build.longest_items``."""
    items = build.longest_items
    dots = users.vectors[rows] @ build.longest_vectors.T
    dots *= build.item_norms[items]
    return best_of(dots, rows, items, consumed, quota)


def best_of(
    scores: Floats, rows: Ints, items: Ints, consumed: Keys, quota: int
) -> tuple[Ints, Ints, Floats]:
    """Row, ordinal and score of the best of all ``scores`` (rows, items), which
    it changes: at least ``quota`` a row where there are as many, by row and ordinal.

    ``rows`` and ``items`` rise. None of the ``consumed`` ones (sorted keys).
    """
    if len(items) == 0:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, np.zeros(0, np.float32)
    row, item = split_pairs(consumed)
    place = np.searchsorted(items, item)
    place[place == len(items)] = 0
    at = np.searchsorted(rows, row)
    at[at == len(rows)] = 0
    hidden = (items[place] == item) & (rows[at] == row)
    scores[at[hidden], place[hidden]] = -np.inf
    # what is consumed is no candidate, however few others there are
    least = np.maximum(_bound(scores, quota), np.finfo(np.float32).min)
    # four times as fast as nonzero() of two dimensions
    flat = np.flatnonzero(scores >= least[:, None])
    at, place = np.divmod(flat, len(items))
    return rows[at], items[place], scores.ravel()[flat]


def _bound(scores: Floats, quota: int) -> Floats:
    """(users,): at most the highest but ``quota`` - 1 of each row, and seldom much
    less.

    In groups of some items, the best of ``quota`` of the groups are that high or
    higher; and there are far fewer groups than items to look through.
    """
    groups = GROUPS * quota
    best = scores
    if scores.shape[1] > 2 * groups:
        best = scores[:, :groups].copy()
        for start in range(groups, scores.shape[1] - groups + 1, groups):
            np.maximum(best, scores[:, start : start + groups], out=best)
    last = max(best.shape[1] - quota, 0)
    found: Floats = np.partition(best, last, axis=1)[:, last]
    return found


def _indexed(
    users: Users, build: Build, index: Index, consumed: Keys, quota: int, rows: Ints
) -> tuple[Ints, Ints, Floats]:
    """Row, ordinal and score of what the usearch index finds, asked for as many
    more as a user has consumed.

    Rounded up to a few steps, so that users are searched in groups and a
    user's step depends on nobody else.
    """
    row, _ = split_pairs(consumed)
    eaten = np.bincount(row, minlength=len(users))[rows]
    step = np.where(eaten == 0, 0, 2 ** np.ceil(np.log2(np.maximum(eaten, 32))))
    step = np.minimum(step, MOST_PASSED_OVER)
    likely = min(math.ceil(AGAIN * build.index_share * quota), quota)
    asked = max(likely, min(LEAST_ASKED, quota))
    parts = []
    for extra in np.unique(step):
        part = rows[step == extra]
        count = min(asked + int(extra), len(index))
        with build.index_lock:
            search = index.search(users.vectors[part] / UNIT, count, threads=1)
        found = search.keys.astype(np.int64).reshape(len(part), -1)
        # of a single query usearch returns what it found, of several a matrix
        counts = search.counts if isinstance(search, BatchMatches) else [found.size]
        brought = np.arange(found.shape[1]) < np.reshape(counts, (-1, 1))
        found[~brought] = 0
        found = build.indexed[found]
        key = pair_keys(np.broadcast_to(part[:, None], found.shape), found)
        brought &= ~contains(consumed, key)
        parts.append(key[brought])
    row, item = split_pairs(np.concatenate(parts))
    theirs = build.item_vectors[item].astype(np.float32)
    dots = np.einsum("ij,ij->i", theirs, users.vectors[row])
    return row, item, dots * build.item_norms[item]
