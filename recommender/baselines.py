"""What a recommender must beat: popularity, item-item, plain ALS, chance.

A method says how it scores items for rows of users; ``Baseline`` has the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from recommender.arrays import (
    VECTOR,
    Doubles,
    Floats,
    Ints,
    codes,
    column,
    descending,
    flat,
    ids,
    matrix,
    positions,
)
from recommender.embeddings import AlsParams, fold_in_users, train_item_factors

RECOMMENDATIONS = pa.schema(
    [("user_id", pa.string()), ("item_id", pa.string()), ("rank", pa.int32())]
)
"""Sorted by user (in the order asked for) and rank, from 1."""

USERS_AT_A_TIME = 512

Scorer: TypeAlias = Callable[[Ints], np.ndarray[Any, np.dtype[np.floating[Any]]]]
"""Rows of known users to scores (rows, items)."""


class Baseline(ABC):
    """One method of recommending."""

    unknown_like_known = False
    """Whether it scores for a user whom it has never seen."""

    def recommend(
        self,
        interactions: pa.Table,
        users: pa.Array,
        k: int,
        exclude_seen: bool,
        among: pa.Table | None = None,
    ) -> pa.Table:
        """The ``k`` best items (RECOMMENDATIONS) for each of ``users``.

        ``interactions``: user_id, item_id, and occurred_at where a method says
        so. ``exclude_seen`` leaves out what a user has interacted with. A user
        unknown to a method gets the popular items. Where ``among`` is given
        (user_id, item_id), only those pairs are ranked.
        """
        log = _Log(interactions)
        return log.recommended(
            users,
            k,
            exclude_seen,
            self._scorer(log, interactions),
            among,
            unknown_like_known=self.unknown_like_known,
        )

    @abstractmethod
    def _scorer(self, log: _Log, interactions: pa.Table) -> Scorer: ...


class Popularity(Baseline):
    """The items with the most interactions, the same for everyone.

    With ``half_life_hours`` an interaction counts half as much for each such
    time before ``as_of``; with ``last_hours`` only the last ones count. Both
    need the column occurred_at. With ``segments`` (user_id, segment) those of
    one's own segment come first, and everyone's decide where they are equal;
    who has no segment gets everyone's.
    """

    def __init__(
        self,
        *,
        as_of: datetime | None = None,
        half_life_hours: float | None = None,
        last_hours: float | None = None,
        segments: pa.Table | None = None,
    ) -> None:
        if as_of is None and (half_life_hours or last_hours):
            raise ValueError("A half-life or a window needs the as_of it ends at.")
        self.as_of = as_of
        self.half_life_hours = half_life_hours
        self.last_hours = last_hours
        self.segments = segments

    def _scorer(self, log: _Log, interactions: pa.Table) -> Scorer:
        weight = np.ones(len(log.item))
        if self.as_of is not None:
            age = _age_hours(interactions, self.as_of)
            if self.half_life_hours is not None:
                weight = 0.5 ** (age / self.half_life_hours)
            if self.last_hours is not None:
                weight = np.where(age < self.last_hours, weight, 0.0)
        popular = np.bincount(log.item, weight, len(log.item_ids))
        if self.segments is None:
            return lambda rows: np.broadcast_to(popular, (len(rows), len(popular)))
        segment, names = codes(ids(self.segments, "segment"))
        at = positions(ids(self.segments, "user_id"), log.user_ids)
        # one more for those who have none
        segment = np.append(segment, len(names))[at]
        theirs: Doubles = (
            np.bincount(
                segment[log.user] * len(popular) + log.item,
                weight,
                (len(names) + 1) * len(popular),
            )
            .reshape(-1, len(popular))
            .astype(np.float64)
        )
        theirs[-1] = 0
        theirs += popular / (popular.max(initial=0) + 1)
        return lambda rows: theirs[segment[rows]]


class ItemItem(Baseline):
    """Items alike, by the cosine of their users, to what a user has seen.

    Sarwar et al., "Item-based collaborative filtering" (2001).
    """

    def _scorer(self, log: _Log, interactions: pa.Table) -> Scorer:
        seen = log.seen
        norm = np.sqrt(np.asarray(seen.sum(axis=0)).ravel())
        unit = seen @ sp.diags_array(1 / np.maximum(norm, 1))
        alike = (unit.T @ unit).tocsr()
        alike.setdiag(0)
        alike.eliminate_zeros()
        return lambda rows: (seen[rows] @ alike).toarray()


class Als(Baseline):
    """Plain ALS: every pair counts 1, scores are dot products."""

    def __init__(self, params: AlsParams) -> None:
        self.params = params

    def _scorer(self, log: _Log, interactions: pa.Table) -> Scorer:
        pairs = log.pairs()
        item_factors = train_item_factors(pairs, self.params)
        user_factors = fold_in_users(pairs, item_factors, self.params)
        # both are sorted by id, like the log's own ids
        items, _ = matrix(column(item_factors, "vector", VECTOR))
        found, _ = matrix(column(user_factors, "vector", VECTOR), items.shape[1])
        theirs = np.zeros((len(log.user_ids), items.shape[1]), np.float32)
        theirs[positions(log.user_ids, ids(user_factors, "user_id"))] = found
        return lambda rows: theirs[rows] @ items.T


class Random(Baseline):
    """Every order of the items equally likely, seeded."""

    unknown_like_known = True

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def _scorer(self, log: _Log, interactions: pa.Table) -> Scorer:
        rng = np.random.default_rng(self.seed)
        return lambda rows: rng.random((len(rows), len(log.item_ids)))


class _Log:
    """Interactions as codes into sorted ids, and as a matrix of 0 and 1."""

    def __init__(self, interactions: pa.Table) -> None:
        self.user, self.user_ids = codes(ids(interactions, "user_id"))
        self.item, self.item_ids = codes(ids(interactions, "item_id"))
        shape = (len(self.user_ids), len(self.item_ids))
        self.seen = sp.csr_matrix(
            (np.ones(len(self.user), np.float32), (self.user, self.item)), shape=shape
        )
        self.seen.data[:] = 1

    def pairs(self) -> pa.Table:
        """Every pair once, with confidence 1."""
        user, item = self.seen.nonzero()
        return pa.table(
            {
                "user_id": self.user_ids.take(pa.array(user)),
                "item_id": self.item_ids.take(pa.array(item)),
                "confidence": np.ones(len(user)),
            }
        )

    def recommended(
        self,
        users: pa.Array,
        k: int,
        exclude_seen: bool,
        score: Scorer,
        among: pa.Table | None = None,
        *,
        unknown_like_known: bool = False,
    ) -> pa.Table:
        """The ``k`` best a user by ``score(rows)``; ties: more interactions,
        then item_id."""
        popular = np.bincount(self.item, minlength=len(self.item_ids))
        by_tie = np.lexsort((np.arange(len(popular)), -popular))
        users = flat(users)
        rows = positions(self.user_ids, users)
        allowed = None if among is None else self._pairs_of(users, among)
        parts = [RECOMMENDATIONS.empty_table()]
        for start in range(0, len(rows) if len(popular) else 0, USERS_AT_A_TIME):
            part = rows[start : start + USERS_AT_A_TIME]
            known = part >= 0
            scores = np.broadcast_to(popular.astype(float), (len(part), len(popular)))
            scores = scores.astype(np.float32)
            if unknown_like_known:
                scores = score(part).astype(np.float32)
            elif known.any():
                scores[known] = score(part[known])
            if exclude_seen and known.any():
                row, item = self.seen[part[known]].nonzero()
                scores[np.flatnonzero(known)[row], item] = -np.inf
            if allowed is not None:
                asked = allowed[start : start + len(part)].toarray()
                scores = np.where(asked, scores, np.float32(-np.inf))
            parts.append(
                self._best(users[start : start + len(part)], scores, by_tie, k)
            )
        return pa.concat_tables(parts)

    def _pairs_of(self, users: pa.Array, among: pa.Table) -> sp.csr_matrix:
        """(users, items): which pairs are to be ranked."""
        row = positions(users, ids(among, "user_id"))
        item = positions(self.item_ids, ids(among, "item_id"))
        known = (row >= 0) & (item >= 0)
        return sp.csr_matrix(
            (np.ones(int(known.sum()), np.bool_), (row[known], item[known])),
            shape=(len(users), len(self.item_ids)),
        )

    def _best(self, users: pa.Array, scores: Floats, by_tie: Ints, k: int) -> pa.Table:
        keys = (descending(scores[:, by_tie]) << np.uint64(32)) | np.arange(
            len(by_tie), dtype=np.uint64
        )
        k = min(k, len(by_tie))
        keys = np.sort(np.partition(keys, k - 1, axis=1)[:, :k], axis=1)
        best = by_tie[(keys & np.uint64(0xFFFFFFFF)).astype(np.int64)]
        shown = np.take_along_axis(scores, best, axis=1) > -np.inf
        row, place = np.nonzero(shown)
        return pa.table(
            [
                users.take(pa.array(row)),
                self.item_ids.take(pa.array(best[shown])),
                pa.array(place + 1, pa.int32()),
            ],
            schema=RECOMMENDATIONS,
        )


def _age_hours(interactions: pa.Table, as_of: datetime) -> Doubles:
    instant = pa.timestamp("us", "UTC")
    at = column(interactions, "occurred_at", instant).cast(pa.int64()).to_numpy()
    now = pa.scalar(as_of, instant).cast(pa.int64()).as_py()
    age: Doubles = (now - at) / 3.6e9
    return age
