"""Retrieval: for each user the union of several sources, without duplicates.

Sources, in the order in which a candidate is credited to one: ``als`` (highest
inner products), ``item_item`` (neighbours of what was engaged with last),
``trending``, ``popular`` and ``fresh``. What then lacks to the wanted number
is filled up in the popular order, so that every user gets as many candidates
as the catalogue allows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from usearch.index import BatchMatches, Index

from recommender.arrays import (
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
from recommender.users import Users

SOURCES = ("als", "item_item", "trending", "popular", "fresh")
ALS, ITEM_ITEM, TRENDING, POPULAR, FRESH = range(len(SOURCES))
NO_RANK = -1

MOST_PASSED_OVER = 4096
"""Consumed items that a search of the index makes up for; who has consumed
more may get fewer candidates from it, and others instead."""

MOST_USERS = 512
"""Of one call: a sort key holds the row in 9 bits and the ordinal in 24."""

_ORDINAL_BITS = np.uint64(24)
_ORDINAL = np.uint64((1 << 24) - 1)
_PLACE_BITS = np.uint64(23)
_PLACE = np.uint64((1 << 23) - 1)
_LOW = np.uint64(0xFFFFFFFF)
_USERS_AT_A_TIME = 32


@dataclass(frozen=True)
class Candidates:
    """Flat arrays, one element a candidate, sorted by user and ordinal.

    ``offsets`` (users + 1); ``row`` the user's row in the batch; ``item`` the
    ordinal; ``source`` the index in SOURCES of the first source that brought
    it; ``ranks`` (candidates, sources) its rank from 0 in each, -1 where it
    wasn't brought by it; ``als_cosine`` and ``item_item_score`` of every
    candidate, whatever its source (0 where there is none).
    """

    offsets: Ints
    row: Ints
    item: Ints
    source: Ints
    ranks: Ints
    als_cosine: Floats
    item_item_score: Floats

    def __len__(self) -> int:
        return len(self.row)


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
    on who else is in the batch. ``users``: at most MOST_USERS.
    """
    if len(users) > MOST_USERS:
        raise ValueError(f"{len(users)} users in one call; {MOST_USERS} is the most.")
    n = wanted(build) if n is None else n
    consumed = distinct(_keys(rows_of(users.consumed_offsets), users.consumed))
    related, relation = _related(users, build)
    allowed = ~contains(consumed, related)
    allowed &= (related & _ORDINAL) < np.uint64(build.active_count)
    popular = np.arange(build.active_count)
    found = [
        _nearest(users, build, consumed, _quota(build.params.als_share, n)),
        _best_related(
            related[allowed],
            relation[allowed],
            len(users),
            _quota(build.params.item_item_share, n),
        ),
        *(
            _first_of(order, source, len(users), consumed, _quota(share, n))
            for order, source, share in (
                (build.trending, TRENDING, build.params.trending_share),
                (popular, POPULAR, build.params.popular_share),
                (build.fresh, FRESH, build.params.fresh_share),
            )
        ),
    ]
    keys, ranks = _union(found, n, len(users))
    keys, ranks = _filled(keys, ranks, consumed, len(users), build.active_count, n)
    if asked is not None:
        keys, ranks = _with(keys, ranks, distinct(_keys(*asked)))
    row, item = _split(keys)
    offsets = offsets_of(row, len(users))
    return Candidates(
        offsets=offsets,
        row=row,
        item=item,
        source=np.argmax(ranks != NO_RANK, axis=1),
        ranks=ranks,
        als_cosine=_cosines(users, build, offsets, item),
        item_item_score=_looked_up(related, relation, keys),
    )


def wanted(build: Build) -> int:
    """Candidates a user: enough for the longest list."""
    lengths = (surface.list_length for surface in build.spec.surfaces.values())
    return max(build.params.candidates, *lengths, 1)


def _quota(share: float, n: int) -> int:
    return int(share * n)


def _keys(rows: Ints, ordinals: Ints) -> Keys:
    return (rows.astype(np.uint64) << _ORDINAL_BITS) | ordinals.astype(np.uint64)


def _sorted(keys: Keys) -> tuple[Keys, Ints]:
    """The keys in order and where each stood; equal ones keep their order.

    Both go into one number, for NumPy's SIMD sorts numbers, not pairs.
    """
    packed = np.sort((keys << _PLACE_BITS) | np.arange(len(keys), dtype=np.uint64))
    return packed >> _PLACE_BITS, (packed & _PLACE).astype(np.int64)


def _split(keys: Keys) -> tuple[Ints, Ints]:
    return (
        (keys >> _ORDINAL_BITS).astype(np.int64),
        (keys & _ORDINAL).astype(np.int64),
    )


def _nearest(users: Users, build: Build, consumed: Keys, quota: int) -> _Found:
    """The active items with the highest inner product with the user."""
    rows = np.flatnonzero(users.has_vector)
    if len(rows) == 0 or len(build.vector_items) == 0 or quota == 0:
        return _nothing(ALS)
    if build.index is None:
        keys, ranks = _nearest_exact(users, build, consumed, quota, rows)
    else:
        keys, ranks = _nearest_indexed(users, build, build.index, consumed, quota, rows)
    return _Found(ALS, keys, ranks)


def _nearest_exact(
    users: Users, build: Build, consumed: Keys, quota: int, rows: Ints
) -> tuple[Keys, Ints]:
    items = build.vector_items
    quota = min(quota, len(items))
    dots = users.vectors[rows] @ build.vector_table.T
    dots *= build.item_norms[items]
    row, item = _split(consumed)
    place = np.searchsorted(items, item)
    place[place == len(items)] = 0
    at = np.searchsorted(rows, row)
    at[at == len(rows)] = 0
    hidden = (items[place] == item) & (rows[at] == row)
    dots[at[hidden], place[hidden]] = -np.inf
    order = (descending(dots) << np.uint64(32)) | np.arange(len(items), dtype=np.uint64)
    best = np.sort(np.partition(order, quota - 1, axis=1)[:, :quota], axis=1)
    shown = best >> np.uint64(32) < descending(np.array([-np.inf], np.float32))
    ranks = np.broadcast_to(np.arange(quota), best.shape)
    found = items[(best & _LOW).astype(np.int64)]
    keys = _keys(np.broadcast_to(rows[:, None], best.shape), found)
    return keys[shown], ranks[shown]


def _nearest_indexed(
    users: Users, build: Build, index: Index, consumed: Keys, quota: int, rows: Ints
) -> tuple[Keys, Ints]:
    """From the usearch index, asked for as many more as a user has consumed.

    Rounded up to a few steps, so that users are searched in groups and a
    user's step depends on nobody else.
    """
    row, _ = _split(consumed)
    eaten = np.bincount(row, minlength=len(users))[rows]
    step = np.where(eaten == 0, 0, 2 ** np.ceil(np.log2(np.maximum(eaten, 32))))
    step = np.minimum(step, MOST_PASSED_OVER)
    keys, ranks = [], []
    for extra in np.unique(step):
        part = rows[step == extra]
        count = min(quota + int(extra), len(build.vector_items))
        with build.index_lock:
            search = index.search(users.vectors[part] / UNIT, count, threads=1)
        found = search.keys.astype(np.int64).reshape(len(part), -1)
        # of a single query usearch returns what it found, of several a matrix
        counts = search.counts if isinstance(search, BatchMatches) else [found.size]
        brought = np.arange(found.shape[1]) < np.reshape(counts, (-1, 1))
        found[~brought] = 0
        key = _keys(np.broadcast_to(part[:, None], found.shape), found)
        brought &= ~contains(consumed, key)
        rank = np.cumsum(brought, axis=1) - 1
        brought &= rank < quota
        keys.append(key[brought])
        ranks.append(rank[brought])
    return np.concatenate(keys), np.concatenate(ranks)


def _related(users: Users, build: Build) -> tuple[Keys, Floats]:
    """Keys (row, ordinal), sorted, and scores of the neighbours of what users
    engaged with last: the sum of similarities, halved every
    ``recent_half_life`` places in the history, newest first."""
    place = places_in(users.recent_offsets)
    kept = place < build.params.recent_items
    seeds, rows, place = (
        users.recent[kept],
        rows_of(users.recent_offsets)[kept],
        place[kept],
    )
    near = build.neighbours[seeds].astype(np.int64)
    decay = 0.5 ** (
        np.arange(build.params.recent_items) / build.params.recent_half_life
    )
    score = build.neighbour_scores[seeds] * decay.astype(np.float32)[place, None]
    present = near >= 0
    keys = _keys(np.broadcast_to(rows[:, None], near.shape)[present], near[present])
    if len(keys) == 0:
        return keys, np.zeros(0, np.float32)
    keys, order = _sorted(keys)
    flat = score[present][order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[first], np.add.reduceat(flat, first)


def _best_related(keys: Keys, scores: Floats, rows: int, quota: int) -> _Found:
    row, item = _split(keys)
    bits = descending(scores) & np.uint64(0x7FFFFFFF)
    order = np.sort(
        (row.astype(np.uint64) << np.uint64(55))
        | (bits << _ORDINAL_BITS)
        | item.astype(np.uint64)
    )
    row = (order >> np.uint64(55)).astype(np.int64)
    ranks = places_in(offsets_of(row, rows))
    kept = ranks < quota
    item = (order & _ORDINAL).astype(np.int64)
    return _Found(ITEM_ITEM, _keys(row[kept], item[kept]), ranks[kept])


def _first_of(
    order: Ints, source: int, rows: int, consumed: Keys, quota: int
) -> _Found:
    """The first ``quota`` of an order that all users share, consumed ones
    passed over (among the first three times as many)."""
    if quota == 0:
        return _nothing(source)
    window = np.asarray(order[: 3 * quota])
    shape = (rows, len(window))
    keys = _keys(
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
    every, order = _sorted(every)
    first = np.ones(len(every), np.bool_)
    np.not_equal(every[1:], every[:-1], out=first[1:])
    keys = every[first]
    ranks = np.full((len(keys), len(SOURCES)), NO_RANK)
    source = np.repeat(
        [part.source for part in found], [len(part.keys) for part in found]
    )
    rank = np.concatenate([part.ranks for part in found])
    ranks[np.cumsum(first) - 1, source[order]] = rank[order]
    row, _ = _split(keys)
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
    consumed = consumed[(consumed & _ORDINAL) < np.uint64(active)]
    taken = np.sort(np.concatenate([keys, consumed]))
    row, item = _split(taken)
    offsets = offsets_of(row, rows)
    room = np.minimum(n - np.bincount(_split(keys)[0], minlength=rows), active)
    room = np.minimum(room, active - np.diff(offsets))
    starved = (
        active - np.diff(offsets) + np.bincount(_split(keys)[0], minlength=rows) == 0
    )
    room[starved] = 0
    # The j-th item that a row lacks, in ordinals and so in the popular order:
    # j plus the number of taken ones before it.
    lacking_before = item - places_in(offsets)
    want = np.zeros(rows + 1, np.int64)
    np.cumsum(room, out=want[1:])
    want_row, j = rows_of(want), places_in(want)
    before = np.searchsorted(
        _keys(row, lacking_before), _keys(want_row, j), side="right"
    )
    fill = j + before - offsets[want_row]
    again = np.flatnonzero(starved)
    return_row = np.repeat(again, min(n, active))
    return_item = np.tile(np.arange(min(n, active)), len(again))
    added = np.concatenate([_keys(want_row, fill), _keys(return_row, return_item)])
    added_ranks = np.full((len(added), len(SOURCES)), NO_RANK)
    added_ranks[:, POPULAR] = np.concatenate([fill, return_item])
    every = np.concatenate([keys, added])
    every, order = _sorted(every)
    return every, np.concatenate([ranks, added_ranks])[order]


def _with(keys: Keys, ranks: Ints, asked: Keys) -> tuple[Keys, Ints]:
    """The keys and those of ``asked`` that lack, which have no ranks."""
    lacking = asked[~contains(keys, asked)]
    unranked = np.full((len(lacking), ranks.shape[1]), NO_RANK)
    every, order = _sorted(np.concatenate([keys, lacking]))
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
