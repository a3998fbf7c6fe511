"""What people of whom nothing is known may like: what alike people do.

Each level of ``LEVELS`` adds to the estimate of the level before it the mean of
what that one missed among the people who share the level's attributes, times
n / (n + ``PEOPLE``): a group of few hardly moves the estimate, one that nobody
knows not at all. On nested levels that is the smoothed back-off of Jelinek and
Mercer (1980) from the finest group to everyone; on others (preferences, of
which one may have several) it is one pass of the additive model of Koren's
baseline (2009).

The product of an item's vector with the mean of people's is the mean of what
their vectors say of it. So what is nearest to a prior is what is popular among
alike people, smoothed by ALS.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from recommender.arrays import (
    VECTOR,
    Bools,
    Doubles,
    Floats,
    Ints,
    codes,
    column,
    ids,
    matrix,
    numbers,
    positions,
    ragged,
    rows_of,
    vectors,
)

LEVELS = (("country",), ("referral_source",), ("country", "device", "referral_source"))
"""From coarse to fine, after the segment and before the declared preferences."""

PEOPLE = 40.0
"""Pseudo-people by which a group's mean is pulled towards the level before. Chosen
among 2, 10 and 40 on the simulator's worlds 1 to 3: vectors of people with few
clicks are noisy, and 10 lost there what it won elsewhere."""

MOST_PEOPLE = 100_000
"""People that estimates are made from, evenly spread over the ids."""

PRIORS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("vector", VECTOR),
        pa.field("category_affinity", VECTOR),
    ]
)


def user_priors(
    people: pa.Table, user_vectors: pa.Table, segments: pa.Table
) -> pa.Table:
    """PRIORS of those of ``people`` who have no vector, by user_id.

    ``people``: user_id, segment, country, device, referral_source (null: not
    known), declared_preferences, user_category_affinity. ``user_vectors``:
    user_id, vector. ``segments``: segment, people, vector (the mean of its
    people's). Empty where nobody has a vector.
    """
    people = people.sort_by("user_id")
    user_ids = ids(people, "user_id")
    dense, has_vector = matrix(column(user_vectors, "vector", VECTOR))
    at = positions(ids(user_vectors, "user_id"), user_ids)
    warm = (at >= 0) & np.append(has_vector, False)[at]
    known, cold = _spread(np.flatnonzero(warm)), np.flatnonzero(~warm)
    if len(known) == 0 or len(cold) == 0:
        return PRIORS.empty_table()
    levels = [*(_shared(people, names) for names in LEVELS), _declared(people)]
    start = _of_segments(people, segments, dense.shape[1])
    vector = _estimate(start, dense[at[known]], levels, known, cold)

    likes, has_likes = matrix(column(people, "user_category_affinity", VECTOR))
    liking = known[has_likes[known]]
    total = likes[liking].sum(axis=0, dtype=np.float64, keepdims=True)
    start = np.repeat(total / max(len(liking), 1), len(people), axis=0)
    share = np.maximum(_estimate(start, likes[liking], levels, liking, cold), 0)
    share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-12)
    return pa.table(
        [
            user_ids.take(pa.array(cold)),
            vectors(vector.astype(np.float32)),
            vectors(share.astype(np.float32)),
        ],
        schema=PRIORS,
    )


def _estimate(
    start: Doubles,
    truth: Floats,
    levels: Sequence[sp.csr_matrix],
    known: Ints,
    cold: Ints,
) -> Doubles:
    """(cold, width): from ``start`` (people, width), level by level.

    ``truth`` (known, width). A level is (people, groups), its rows summing to 1
    or, where somebody is in no group, to 0.
    """
    of_known, found = start[known], start[cold]
    for level in levels:
        theirs = level[known]
        inside = (theirs > 0).astype(np.float64)
        count = np.asarray(inside.sum(axis=0)).ravel()
        added = (inside.T @ (truth - of_known)) / (count + PEOPLE)[:, None]
        of_known = of_known + theirs @ added
        found = found + level[cold] @ added
    return found


def _spread(rows: Ints) -> Ints:
    """At most MOST_PEOPLE of the ``rows``, evenly spread."""
    step = -(-len(rows) // MOST_PEOPLE)
    return rows[:: max(step, 1)]


def _of_segments(people: pa.Table, segments: pa.Table, width: int) -> Doubles:
    """(people, width): the mean of each one's segment, pulled towards
    everyone's."""
    means, _ = matrix(column(segments, "vector", VECTOR), width)
    count = numbers(segments, "people", 0.0)[:, None]
    everyone = (count * means).sum(axis=0) / max(count.sum(), 1.0)
    smoothed = (count * means + PEOPLE * everyone) / (count + PEOPLE)
    at = positions(ids(segments, "segment"), ids(people, "segment"))
    return np.concatenate([smoothed, everyone[None]])[at]


def _shared(people: pa.Table, names: tuple[str, ...]) -> sp.csr_matrix:
    """Groups of people who have all of the attributes in common. Who lacks one
    is in no group."""
    place, groups = np.zeros(len(people), np.int64), 1
    given: Bools = np.ones(len(people), np.bool_)
    for name in names:
        values = column(people, name, pa.string())
        given &= pc.is_valid(values).to_numpy(zero_copy_only=False)
        code, known = codes(pc.fill_null(values, ""))
        _, place = np.unique(place * len(known) + code, return_inverse=True)
        groups = int(place.max(initial=0)) + 1
    rows = np.flatnonzero(given)
    return _level(rows, place[rows], (len(people), groups))


def _declared(people: pa.Table) -> sp.csr_matrix:
    """A group a preference; somebody's estimate is the mean over theirs."""
    kind = pa.list_(pa.string())
    offsets, values = ragged(column(people, "declared_preferences", kind))
    code, names = codes(pc.fill_null(values, ""))
    return _level(rows_of(offsets), code, (len(people), len(names)))


def _level(rows: Ints, groups: Ints, shape: tuple[int, int]) -> sp.csr_matrix:
    member = sp.csr_matrix((np.ones(len(rows)), (rows, groups)), shape=shape)
    member.data[:] = 1.0
    share = 1 / np.maximum(np.asarray(member.sum(axis=1)).ravel(), 1)
    return sp.diags(share).tocsr() @ member
