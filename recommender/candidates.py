"""Retrieval: for each user the union of several sources, without duplicates.

Sources, in the order in which a candidate is credited to one: ``als`` (highest
inner products), ``item_item`` (neighbours of what was engaged with last),
``ease`` (what the weights of the same items add up to), ``taste`` (what is likeliest
to be clicked), ``trending``, ``popular`` and ``fresh``. What then lacks to the wanted
number is filled up in the popular order, so that every user gets as many candidates as
the catalogue allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp

from recommender.arrays import (
    Bools,
    Floats,
    Ints,
    Keys,
    contains,
    descending,
    distinct,
    offsets_of,
    places_in,
    rows_of,
)
from recommender.build import UNIT, Build
from recommender.most_liked import most_liked
from recommender.nearest import nearest
from recommender.pairs import (
    MOST_ROWS,
    ORDINAL,
    ORDINAL_BITS,
    ROW_AT,
    pair_keys,
    sorted_pairs,
    split_pairs,
)
from recommender.params import KernelParams
from recommender.users import Users

SOURCES = ("als", "item_item", "ease", "taste", "trending", "popular", "fresh")
ALS, ITEM_ITEM, EASE, TASTE, TRENDING, POPULAR, FRESH = range(len(SOURCES))
NO_RANK = -1

_USERS_AT_A_TIME = 32


@dataclass(frozen=True)
class Candidates:
    """Flat arrays, one element a candidate, sorted by user and ordinal.

    ``offsets`` (users + 1); ``row`` the user's row in the batch; ``item`` the
    ordinal; ``source`` the index in SOURCES of the first source that brought
    it; ``ranks`` (candidates, sources) its rank from 0 in each, -1 where it
    wasn't brought by it; ``als_cosine``, ``item_item_score`` and ``ease_score`` of
    every candidate, whatever its source (0 where there is none).
    """

    offsets: Ints
    row: Ints
    item: Ints
    source: Ints
    ranks: Ints
    als_cosine: Floats
    item_item_score: Floats
    ease_score: Floats

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def sourced(self) -> Bools:
        """Which were brought by a source, and not just asked for."""
        return np.asarray((self.ranks != NO_RANK).any(axis=1))


@dataclass(frozen=True)
class _Found:
    """What one source brought: keys (row, ordinal) and ranks."""

    source: int
    keys: Keys
    ranks: Ints


def retrieve(
    users: Users,
    build: Build,
    n: int | None = None,
    asked: tuple[Ints, Ints] | None = None,
) -> Candidates:
    """Up to ``n`` candidates a user (default: the build's parameter, and at
    least the longest list of a surface).

    ``asked``: rows and ordinals of further candidates, whether a source brings
    them or not.

    Active items only, none of the user's consumed ones; where a user has
    consumed everything there is, consumed items return, popular ones first,
    for a repeated list is better than none. A user's candidates don't depend
    on who else is in the batch. ``users``: at most MOST_ROWS.
    """
    if len(users) > MOST_ROWS:
        raise ValueError(f"{len(users)} users in one call; {MOST_ROWS} is the most.")
    n = wanted(build) if n is None else n
    consumed = distinct(pair_keys(rows_of(users.consumed_offsets), users.consumed))
    newest = _newest(users, build)
    related, relation = _related(newest, build)
    allowed = ~contains(consumed, related)
    allowed &= (related & ORDINAL) < np.uint64(build.active_count)
    predicted = _predicted(newest, len(users), build)
    popular = np.arange(build.active_count)
    quota = _quotas(build, n)
    found = [
        _Found(ALS, *nearest(users, build, consumed, quota[ALS])),
        _best_related(
            related[allowed], relation[allowed], len(users), quota[ITEM_ITEM]
        ),
        _best_predicted(predicted, build, consumed, quota[EASE]),
        _Found(TASTE, *most_liked(users, build, consumed, quota[TASTE])),
        *(
            _first_of(order, source, len(users), consumed, quota[source])
            for order, source in (
                (build.trending, TRENDING),
                (popular, POPULAR),
                (build.fresh, FRESH),
            )
        ),
    ]
    keys, ranks = _union(found, n, len(users))
    keys, ranks = _filled(keys, ranks, consumed, len(users), build.active_count, n)
    if asked is not None:
        keys, ranks = _with(keys, ranks, distinct(pair_keys(*asked)))
    row, item = split_pairs(keys)
    offsets = offsets_of(row, len(users))
    return Candidates(
        offsets=offsets,
        row=row,
        item=item,
        source=np.argmax(ranks != NO_RANK, axis=1),
        ranks=ranks,
        als_cosine=_cosines(users, build, offsets, item),
        item_item_score=_looked_up(related, relation, keys),
        ease_score=_of_weighed(predicted, build, row, item),
    )


def wanted(build: Build) -> int:
    """Candidates a user: enough for the longest list."""
    lengths = (surface.list_length for surface in build.spec.surfaces.values())
    return max(build.params.candidates, *lengths, 1)


def shares(params: KernelParams) -> dict[str, float]:
    """By source, its share of the candidates."""
    return {source: getattr(params, f"{source}_share") for source in SOURCES}


def _quotas(build: Build, n: int) -> list[int]:
    """Of ``n`` candidates, in the order of SOURCES. While no tastes are known, the
    other sources have their part, in proportion."""
    share = np.array(list(shares(build.params).values()))
    total = share.sum()
    if not build.has_tastes:
        share[TASTE] = 0
    share *= total / (share.sum() or 1.0)
    # a hundredth of one more, for a share that its sum left just below
    found: list[int] = (share * n + 0.01).astype(np.int64).tolist()
    return found


_Newest: TypeAlias = tuple[Ints, Ints, Floats]
"""Rows, ordinals and weights of what users engaged with last."""


def _newest(users: Users, build: Build) -> _Newest:
    """Weights are halved every ``recent_half_life`` places in the history, newest
    first."""
    place = places_in(users.recent_offsets)
    kept = place < build.params.recent_items
    decay = 0.5 ** (
        np.arange(build.params.recent_items) / build.params.recent_half_life
    )
    weight = decay.astype(np.float32)[place[kept]]
    return rows_of(users.recent_offsets)[kept], users.recent[kept], weight


def _related(newest: _Newest, build: Build) -> tuple[Keys, Floats]:
    """Keys (row, ordinal), sorted, and scores of the neighbours of what users
    engaged with last: the weighted sum of similarities."""
    rows, seeds, weight = newest
    near = build.neighbours[seeds].astype(np.int64)
    score = build.neighbour_scores[seeds] * weight[:, None]
    present = near >= 0
    keys = pair_keys(np.broadcast_to(rows[:, None], near.shape)[present], near[present])
    if len(keys) == 0:
        return keys, np.zeros(0, np.float32)
    keys, order = sorted_pairs(keys)
    flat = score[present][order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[first], np.add.reduceat(flat, first)


def _best_related(keys: Keys, scores: Floats, rows: int, quota: int) -> _Found:
    row, item = split_pairs(keys)
    bits = descending(scores) & np.uint64(0x7FFFFFFF)
    order = np.sort(
        (row.astype(np.uint64) << ROW_AT)
        | (bits << ORDINAL_BITS)
        | item.astype(np.uint64)
    )
    row = (order >> ROW_AT).astype(np.int64)
    ranks = places_in(offsets_of(row, rows))
    kept = ranks < quota
    item = (order & ORDINAL).astype(np.int64)
    return _Found(ITEM_ITEM, pair_keys(row[kept], item[kept]), ranks[kept])


def _predicted(newest: _Newest, users: int, build: Build) -> Floats:
    """(users, weighed items): what the items that a user engaged with last weigh
    for each."""
    rows, seeds, weight = newest
    place = build.weighed_place[seeds]
    kept = place >= 0
    taken = sp.csr_matrix(
        (weight[kept], place[kept], offsets_of(rows[kept], users)),
        shape=(users, len(build.weighed)),
    )
    found: Floats = (taken @ build.weights).toarray()
    return found


def _best_predicted(
    predicted: Floats, build: Build, consumed: Keys, quota: int
) -> _Found:
    """Of the active items that a user has not consumed those of the highest
    scores above 0."""
    if quota == 0 or predicted.shape[1] == 0:
        return _nothing(EASE)
    row, item = split_pairs(consumed)
    at = build.weighed_place[item]
    allowed = predicted > 0
    allowed &= build.weighed < build.active_count
    allowed[row[at >= 0], at[at >= 0]] = False
    keys = (
        descending(np.where(allowed, predicted, -np.inf)) << np.uint64(32)
    ) | np.arange(predicted.shape[1], dtype=np.uint64)
    if quota < keys.shape[1]:
        keys = np.partition(keys, quota - 1, axis=1)[:, :quota]
    keys.sort(axis=1)
    best = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    row, rank = np.nonzero(np.take_along_axis(allowed, best, axis=1))
    found = pair_keys(row, build.weighed[best[row, rank]])
    return _Found(EASE, found, rank)


def _of_weighed(predicted: Floats, build: Build, row: Ints, item: Ints) -> Floats:
    """Of each candidate; 0 where its item has no weights."""
    found = np.zeros(len(row), np.float32)
    place = build.weighed_place[item]
    known = place >= 0
    found[known] = predicted[row[known], place[known]]
    return found


def _first_of(
    order: Ints, source: int, rows: int, consumed: Keys, quota: int
) -> _Found:
    """The first ``quota`` of an order that all users share, consumed ones
    passed over (among the first three times as many)."""
    if quota == 0:
        return _nothing(source)
    window = np.asarray(order[: 3 * quota])
    shape = (rows, len(window))
    keys = pair_keys(
        np.broadcast_to(np.arange(rows)[:, None], shape),
        np.broadcast_to(window, shape),
    )
    shown = ~contains(consumed, keys)
    ranks = np.cumsum(shown, axis=1) - 1
    shown &= ranks < quota
    return _Found(source, keys[shown], ranks[shown])


def _nothing(source: int) -> _Found:
    return _Found(source, np.zeros(0, np.uint64), np.zeros(0, np.int64))


def _union(found: list[_Found], n: int, rows: int) -> tuple[Keys, Ints]:
    """Distinct keys, sorted, and their rank in each source; the ``n`` of each
    row that the earliest sources brought."""
    every = np.concatenate([part.keys for part in found])
    every, order = sorted_pairs(every)
    first = np.ones(len(every), np.bool_)
    np.not_equal(every[1:], every[:-1], out=first[1:])
    keys = every[first]
    ranks = np.full((len(keys), len(SOURCES)), NO_RANK)
    source = np.repeat(
        [part.source for part in found], [len(part.keys) for part in found]
    )
    rank = np.concatenate([part.ranks for part in found])
    ranks[np.cumsum(first) - 1, source[order]] = rank[order]
    row, _ = split_pairs(keys)
    if len(keys) == 0 or np.bincount(row, minlength=rows).max() <= n:
        return keys, ranks
    source = np.argmax(ranks != NO_RANK, axis=1)
    rank = ranks[np.arange(len(keys)), source]
    order = np.lexsort((rank, source, row))
    kept = np.zeros(len(keys), np.bool_)
    kept[order[places_in(offsets_of(row, rows)) < n]] = True
    return keys[kept], ranks[kept]


def _filled(
    keys: Keys, ranks: Ints, consumed: Keys, rows: int, active: int, n: int
) -> tuple[Keys, Ints]:
    """Every row filled up to ``n`` with the most popular items it lacks."""
    consumed = consumed[(consumed & ORDINAL) < np.uint64(active)]
    taken = np.sort(np.concatenate([keys, consumed]))
    row, item = split_pairs(taken)
    offsets = offsets_of(row, rows)
    held = np.bincount(split_pairs(keys)[0], minlength=rows)
    lacking = active - np.diff(offsets)
    room = np.minimum(n - held, lacking)
    starved = lacking + held == 0
    room[starved] = 0
    # The j-th item that a row lacks, in ordinals and so in the popular order:
    # j plus the number of taken ones before it.
    lacking_before = item - places_in(offsets)
    want = np.zeros(rows + 1, np.int64)
    np.cumsum(room, out=want[1:])
    want_row, j = rows_of(want), places_in(want)
    before = np.searchsorted(
        pair_keys(row, lacking_before), pair_keys(want_row, j), side="right"
    )
    fill = j + before - offsets[want_row]
    again = np.flatnonzero(starved)
    return_row = np.repeat(again, min(n, active))
    return_item = np.tile(np.arange(min(n, active)), len(again))
    added = np.concatenate(
        [pair_keys(want_row, fill), pair_keys(return_row, return_item)]
    )
    added_ranks = np.full((len(added), len(SOURCES)), NO_RANK)
    added_ranks[:, POPULAR] = np.concatenate([fill, return_item])
    every = np.concatenate([keys, added])
    every, order = sorted_pairs(every)
    return every, np.concatenate([ranks, added_ranks])[order]


def _with(keys: Keys, ranks: Ints, asked: Keys) -> tuple[Keys, Ints]:
    """The keys and those of ``asked`` that lack, which have no ranks."""
    lacking = asked[~contains(keys, asked)]
    unranked = np.full((len(lacking), ranks.shape[1]), NO_RANK)
    every, order = sorted_pairs(np.concatenate([keys, lacking]))
    return every, np.concatenate([ranks, unranked])[order]


def _cosines(users: Users, build: Build, offsets: Ints, item: Ints) -> Floats:
    """Of each candidate: whole numbers until the last step, so exact."""
    found = np.empty(len(item), np.float32)
    for start in range(0, len(users), _USERS_AT_A_TIME):
        part = users.vectors[start : start + _USERS_AT_A_TIME]
        bounds = offsets[start : start + len(part) + 1]
        theirs = build.item_vectors[item[bounds[0] : bounds[-1]]].astype(np.float32)
        lengths = np.diff(bounds)
        if (lengths == lengths[0]).all():
            blocks = theirs.reshape(len(part), lengths[0], part.shape[1])
            dots = np.matmul(blocks, part[:, :, None]).ravel()
        else:
            dots = np.einsum("ij,ij->i", theirs, np.repeat(part, lengths, axis=0))
        found[bounds[0] : bounds[-1]] = dots
    return found / np.float32(UNIT * UNIT)


def _looked_up(keys: Keys, scores: Floats, wanted_keys: Keys) -> Floats:
    if len(keys) == 0:
        return np.zeros(len(wanted_keys), np.float32)
    at = np.searchsorted(keys, wanted_keys)
    at[at == len(keys)] = 0
    return np.where(keys[at] == wanted_keys, scores[at], np.float32(0))
