"""Item-item neighbours from what people take one after the other.

The cosine of co-occurrence (Sarwar et al., "Item-based collaborative
filtering", 2001), where two items of a person count the less the more others
lie between them, and where items that few people touched are held back
(shrinkage, as in Bell and Koren, "Scalable Collaborative Filtering with
Jointly Derived Neighborhood Interpolation Weights", 2007). Sparse and bounded:
a person's pairs lie within a window, an item keeps its nearest neighbours.
"""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from recommender.arrays import (
    Doubles,
    Ints,
    codes,
    column,
    ids,
    offsets_of,
    places_in,
)

NEIGHBOURS = pa.schema(
    [
        ("item_id", pa.string()),
        ("neighbour_id", pa.string()),
        ("score", pa.float32()),
    ]
)

ITEMS_AT_A_TIME = 1024
PAIRS_AT_A_TIME = 8_000_000


class ItemItemParams(msgspec.Struct, frozen=True, kw_only=True):
    """``half_life``: places between two items of a person after which their
    pair counts half, with none counted beyond ``window``. ``most_items``: of
    one person, the newest. ``shrinkage``: people added to each item's.
    ``neighbours``: kept of an item."""

    half_life: float = 5.0
    window: int = 30
    most_items: int = 200
    shrinkage: float = 10.0
    neighbours: int = 50


def train_neighbours(
    pairs: pa.Table, params: ItemItemParams, *, ordered: bool = True
) -> pa.Table:
    """NEIGHBOURS, each item's by falling score; scores are within (0, 1).

    ``pairs``: user_id, item_id, recency_place (from 1, each user's newest
    first), every pair once, in any order of rows. Where the places say nothing
    (``ordered`` false) all of a person's pairs count alike.
    """
    place = column(pairs, "recency_place", pa.int64()).to_numpy()
    kept = place <= params.most_items
    user, _ = codes(ids(pairs, "user_id").filter(pa.array(kept)))
    item, item_ids = codes(ids(pairs, "item_id").filter(pa.array(kept)))
    order = np.lexsort((place[kept], user))
    user, item, items = user[order], item[order], len(item_ids)
    people = np.bincount(item, minlength=items) + params.shrinkage
    root = np.sqrt(people)
    together = _together(user, item, items, params if ordered else None)
    parts = [NEIGHBOURS.empty_table()]
    for start in range(0, items, ITEMS_AT_A_TIME):
        found = together[start : start + ITEMS_AT_A_TIME].tocoo()
        one, near = found.coords[0] + start, found.coords[1]
        score = found.data / (root[one] * root[near])
        parts.append(_nearest(item_ids, one, near, score, params.neighbours))
    return pa.concat_tables(parts)


def _together(
    user: Ints, item: Ints, items: int, params: ItemItemParams | None
) -> sp.csr_matrix:
    """(items, items), symmetric with an empty diagonal: how often two items
    are a person's, by their distance where ``params`` are given.

    ``user``, ``item``: distinct pairs by user and time.
    """
    if params is None:
        shape = (int(user.max(initial=-1)) + 1, items)
        seen = sp.csr_matrix((np.ones(len(user)), (user, item)), shape=shape)
        every = (seen.T @ seen).tocsr()
        every.setdiag(0)
        every.eliminate_zeros()
        return every
    total = sp.csr_matrix((items, items))
    ones, others, weights = [], [], []
    waiting = 0
    for distance in range(1, params.window + 1):
        same = np.flatnonzero(user[distance:] == user[:-distance])
        one, other = item[same], item[same + distance]
        ones.append(np.minimum(one, other))
        others.append(np.maximum(one, other))
        weights.append(np.full(len(same), 0.5 ** (distance / params.half_life)))
        waiting += len(same)
        if waiting > PAIRS_AT_A_TIME or distance == params.window:
            at = (np.concatenate(ones), np.concatenate(others))
            total = total + sp.csr_matrix(
                (np.concatenate(weights), at), shape=total.shape
            )
            ones, others, weights = [], [], []
            waiting = 0
    return (total + total.T).tocsr()


def _nearest(
    item_ids: pa.Array, item: Ints, near: Ints, score: Doubles, most: int
) -> pa.Table:
    order = np.lexsort((near, -score, item))
    item, near, score = item[order], near[order], score[order]
    kept = places_in(offsets_of(item, len(item_ids))) < most
    return pa.table(
        [
            item_ids.take(pa.array(item[kept])),
            item_ids.take(pa.array(near[kept])),
            pa.array(score[kept], pa.float32()),
        ],
        schema=NEIGHBOURS,
    )
