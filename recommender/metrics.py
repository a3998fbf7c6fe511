"""Offline metrics of ranked lists, with bootstrap intervals by user.

With R a user's recommendations up to rank k and T the user's truth (the
distinct held-out items), users without truth left out:

- ``recall@k``   |R ∩ T| / |T|
- ``ndcg@k``     sum over hits of 1/log2(rank + 1), over the same sum for the
                 ideal list of min(k, |T|) hits (Järvelin and Kekäläinen, 2002)
- ``hr@k``       1 where R ∩ T is not empty
- ``mrr@k``      1 / rank of the first hit, 0 without one
- ``coverage@k`` distinct items recommended to anyone / items of the catalogue
- ``diversity@k`` share of the pairs of R of different categories (a list of
                 fewer than two items counts 0)
- ``novelty@k``  mean of -log2 of the share of training users who know an item
                 of R, one added to numerator and denominator

A user with truth and without recommendations counts 0 everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedloop.errors import ContractError
from recommender.arrays import (
    Bools,
    Doubles,
    Ints,
    codes,
    column,
    flat,
    ids,
    positions,
)

RESAMPLES = 1000
RESAMPLES_AT_A_TIME = 20
CONFIDENCE = 0.95
EVERYONE = "all"


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over users and its percentile bootstrap interval of 95 %."""

    mean: float
    low: float
    high: float
    users: int


@dataclass(frozen=True)
class _Listed:
    """Recommendations of the users with truth: row of the user, item, rank."""

    user: Ints
    item: pa.Array
    rank: Ints

    def only(self, rows: Bools) -> _Listed:
        return _Listed(
            self.user[rows], self.item.filter(pa.array(rows)), self.rank[rows]
        )


def evaluate(
    recommendations: pa.Table,
    truth: pa.Table,
    ks: Sequence[int],
    *,
    seed: int,
    train: pa.Table | None = None,
    catalogue: pa.Table | None = None,
    user_cohorts: Mapping[str, pa.Array] | None = None,
    item_cohorts: Mapping[str, pa.Array] | None = None,
) -> dict[str, dict[str, Estimate]]:
    """Estimates by cohort (``all`` first) and metric.

    A user cohort is a set of user ids. An item cohort is a set of item ids:
    the truth is cut to it, the recommendations are not. A cohort without
    anyone is left out.
    """
    values = per_user(recommendations, truth, ks, train=train, catalogue=catalogue)
    cohorts = {EVERYONE: values}
    for name, users in (user_cohorts or {}).items():
        cohorts[name] = values.filter(
            pc.is_in(values["user_id"], value_set=flat(users))
        )
    for name, items in (item_cohorts or {}).items():
        cut = truth.filter(pc.is_in(ids(truth, "item_id"), value_set=flat(items)))
        cohorts[name] = per_user(
            recommendations, cut, ks, train=train, catalogue=catalogue
        )
    return {
        name: estimates(found, seed) for name, found in cohorts.items() if len(found)
    }


def per_user(
    recommendations: pa.Table,
    truth: pa.Table,
    ks: Sequence[int],
    *,
    train: pa.Table | None = None,
    catalogue: pa.Table | None = None,
) -> pa.Table:
    """One row a user with truth: user_id (sorted) and a column for each metric.

    ``recommendations``: user_id, item_id, rank (from 1). ``truth``: user_id,
    item_id. ``train`` (user_id, item_id) adds novelty, ``catalogue`` (item_id,
    category) diversity.
    """
    user, user_ids = codes(ids(truth, "user_id"))
    wanted_item, item_ids = codes(ids(truth, "item_id"))
    wanted = np.unique(user * (len(item_ids) + 1) + wanted_item)
    size = np.bincount(wanted // (len(item_ids) + 1), minlength=len(user_ids))
    listed = _listed(recommendations, user_ids)
    item = positions(item_ids, listed.item)
    hit = np.isin(listed.user * (len(item_ids) + 1) + item, wanted) & (item >= 0)
    columns: dict[str, Doubles] = {}
    for k in ks:
        near = listed.rank <= k
        columns |= _accuracy(listed.user[near], listed.rank[near], hit[near], size, k)
        if catalogue is not None:
            found = _diversity(listed.only(near), catalogue, len(user_ids))
            columns[f"diversity@{k}"] = found
        if train is not None:
            found = _novelty(listed.only(near), train, len(user_ids))
            columns[f"novelty@{k}"] = found
    return pa.table({"user_id": user_ids} | columns)


def estimates(values: pa.Table, seed: int) -> dict[str, Estimate]:
    """The mean of each metric column of ``per_user``, with its interval."""
    names = [name for name in values.column_names if name != "user_id"]
    numbers = np.column_stack([values[name].to_numpy() for name in names])
    means = numbers.mean(axis=0)
    low, high = interval(numbers, seed)
    return {
        name: Estimate(
            mean=float(means[at]),
            low=float(low[at]),
            high=float(high[at]),
            users=len(values),
        )
        for at, name in enumerate(names)
    }


def differences(ours: pa.Table, theirs: pa.Table, seed: int) -> dict[str, Estimate]:
    """How much ``ours`` is above ``theirs`` (both of ``per_user``, the same
    users), resampled in pairs."""
    if ours["user_id"] != theirs["user_id"]:
        raise ContractError("A difference needs both methods on the same users.")
    shared = [name for name in ours.column_names if name in theirs.column_names]
    return estimates(
        pa.table(
            {
                name: ours[name]
                if name == "user_id"
                else pc.subtract(ours[name], theirs[name])
                for name in shared
            }
        ),
        seed,
    )


def coverage(recommendations: pa.Table, catalogue: pa.Array, k: int) -> float:
    """Share of the distinct items of ``catalogue`` in anyone's first ``k``."""
    near = pc.less_equal(column(recommendations, "rank", pa.int64()), k)
    shown = ids(recommendations, "item_id").filter(near).unique()
    items = flat(catalogue).unique()
    if len(items) == 0:
        return 0.0
    return float(pc.sum(pc.is_in(items, value_set=shown)).as_py()) / len(items)


def _listed(recommendations: pa.Table, user_ids: pa.Array) -> _Listed:
    user = positions(user_ids, ids(recommendations, "user_id"))
    rank = column(recommendations, "rank", pa.int64()).to_numpy()
    return _Listed(user, ids(recommendations, "item_id"), rank).only(user >= 0)


def _accuracy(
    user: Ints, rank: Ints, hit: Bools, size: Ints, k: int
) -> dict[str, Doubles]:
    users = len(size)
    hits = np.bincount(user[hit], minlength=users)
    gains = 1 / np.log2(np.arange(k) + 2)
    gained = np.bincount(user[hit], gains[rank[hit] - 1], users)
    ideal = np.cumsum(gains)[np.minimum(size, k) - 1]
    first = np.full(users, np.inf)
    np.minimum.at(first, user[hit], rank[hit])
    return {
        f"recall@{k}": hits / size,
        f"ndcg@{k}": gained / ideal,
        f"hr@{k}": (hits > 0).astype(np.float64),
        f"mrr@{k}": 1 / first,
    }


def _diversity(listed: _Listed, catalogue: pa.Table, users: int) -> Doubles:
    category, names = codes(
        pc.fill_null(column(catalogue, "category", pa.string()), "")
    )
    at = positions(ids(catalogue, "item_id"), listed.item)
    # an item that the catalogue doesn't know is of a category of its own
    unknown = len(names) + np.arange(len(at))
    theirs = np.where(at >= 0, category[at], unknown) if len(category) else unknown
    length = np.bincount(listed.user, minlength=users)
    groups, same = np.unique(
        np.stack([listed.user, theirs]), axis=1, return_counts=True
    )
    pairs = length * (length - 1)
    alike = np.bincount(groups[0], same * (same - 1), users)
    different: Doubles = (pairs - alike) / np.maximum(pairs, 1)
    return different


def _novelty(listed: _Listed, train: pa.Table, users: int) -> Doubles:
    user, user_ids = codes(ids(train, "user_id"))
    item, item_ids = codes(ids(train, "item_id"))
    pair = np.unique(user * (len(item_ids) + 1) + item)
    knowing = np.bincount(pair % (len(item_ids) + 1), minlength=len(item_ids) + 1)
    at = positions(item_ids, listed.item)
    surprise = -np.log2((np.where(at >= 0, knowing[at], 0) + 1) / (len(user_ids) + 1))
    length = np.bincount(listed.user, minlength=users)
    total = np.bincount(listed.user, surprise, users)
    mean: Doubles = total / np.maximum(length, 1)
    return mean


def interval(
    values: Doubles, seed: int, over: Doubles | None = None
) -> tuple[Doubles, Doubles]:
    """Bounds (columns,) of the means over users drawn with replacement.

    ``values`` (users, columns). With ``over``, of the same shape: of the ratio
    of the sums of both, nan where all that was drawn of ``over`` is zero.
    """
    rng = np.random.default_rng(seed)
    users = len(values)
    means = np.empty((RESAMPLES, values.shape[1]))
    even = np.full(users, 1 / users)
    for start in range(0, RESAMPLES, RESAMPLES_AT_A_TIME):
        drawn = rng.multinomial(users, even, size=RESAMPLES_AT_A_TIME)
        below = users if over is None else drawn @ over
        with np.errstate(invalid="ignore"):
            means[start : start + RESAMPLES_AT_A_TIME] = drawn @ values / below
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(means, [tail, 1 - tail], axis=0)
    return low, high
