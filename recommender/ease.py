"""What having taken one item says of another, all other items given.

EASE (Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", 2019): the
ridge regression of each item on all others in closed form. With G the matrix of
how many people took both of two items, and P the inverse of G + λI, taking item
i weighs -P[i, j] / P[j, j] for item j. Unlike a similarity a weight knows what
other items say already, and is below zero where one item stands for another.

The inverse is dense, so that it is for the most taken items of a catalogue only;
of each item the strongest weights are kept, whatever their sign.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from scipy.linalg.lapack import dpotrf as potrf
from scipy.linalg.lapack import dpotri as potri
from threadpoolctl import threadpool_limits

from feedloop.errors import ContractError
from recommender.arrays import (
    Doubles,
    Ints,
    codes,
    column,
    ids,
)

WEIGHTS = pa.schema(
    [
        ("item_id", pa.string()),
        ("other_id", pa.string()),
        ("weight", pa.float32()),
    ]
)


ITEMS_AT_A_TIME = 256


class EaseParams(msgspec.Struct, frozen=True, kw_only=True):
    """``most_items``: of the catalogue, the most taken; memory grows with its
    square and time with its cube. ``most_of_person``: a person's newest.
    ``regularization``: λ, in people. ``kept``: weights of an item."""

    most_items: int = 5000
    most_of_person: int = 200
    regularization: float = 200.0
    kept: int = 200


def train_weights(pairs: pa.Table, params: EaseParams) -> pa.Table:
    """WEIGHTS, each item's by falling strength.

    ``pairs``: user_id, item_id, recency_place (from 1, each user's newest
    first), every pair once, in any order of rows.
    """
    place = column(pairs, "recency_place", pa.int64()).to_numpy()
    kept = pa.array(place <= params.most_of_person)
    user, user_ids = codes(ids(pairs, "user_id").filter(kept))
    item, item_ids = codes(ids(pairs, "item_id").filter(kept))
    people = np.bincount(item, minlength=len(item_ids))
    most = np.sort(np.argsort(-people, kind="stable")[: params.most_items])
    if len(most) < 2:
        return WEIGHTS.empty_table()
    column_of = np.full(len(item_ids), -1)
    column_of[most] = np.arange(len(most))
    known = column_of[item] >= 0
    at = (user[known], column_of[item[known]])
    taken = sp.csr_matrix(
        (np.ones(len(at[0])), at), shape=(len(user_ids), len(most)), dtype=np.float64
    )
    names = item_ids.take(pa.array(most))
    parts = [WEIGHTS.empty_table()]
    for row, other, weight in _strongest((taken.T @ taken).toarray(), params):
        parts.append(
            pa.table(
                [
                    names.take(pa.array(row)),
                    names.take(pa.array(other)),
                    pa.array(weight, pa.float32()),
                ],
                schema=WEIGHTS,
            )
        )
    return pa.concat_tables(parts)


def _strongest(
    together: Doubles, params: EaseParams
) -> Iterator[tuple[Ints, Ints, Doubles]]:
    """Row, column and weight of the ``kept`` of each row that are furthest from
    0, for some rows after the other.

    ``together`` (items, items), symmetric, is used up: there is room for one such
    matrix, not for several.
    """
    items = len(together)
    diagonal = np.diag_indices(items)
    together[diagonal] += params.regularization
    # on one thread: the sums, and so the model, are then the same everywhere
    with threadpool_limits(1, user_api="blas"):
        lower, failed = potrf(together.T, lower=1, overwrite_a=1)
        if not failed:
            inverse, failed = potri(lower, lower=1, overwrite_c=1)
    if failed:
        raise ContractError(
            f"With a regularization of {params.regularization} the co-occurrence of "
            "items has no inverse; ease_regularization must be above 0."
        )
    kept = min(params.kept, items - 1)
    own = inverse[diagonal]
    for start in range(0, items, ITEMS_AT_A_TIME):
        stop = min(start + ITEMS_AT_A_TIME, items)
        row = np.arange(start, stop)[:, None]
        # only the lower triangle of the inverse is filled
        below = np.arange(items) <= row
        weight = np.where(below, inverse[start:stop], inverse[:, start:stop].T)
        weight /= -own
        weight[np.arange(stop - start), np.arange(start, stop)] = 0
        order = np.argsort(-np.abs(weight), axis=1, kind="stable")[:, :kept]
        found = np.take_along_axis(weight, order, axis=1)
        at, place = np.nonzero(found)
        yield at + start, order[at, place], found[at, place]
