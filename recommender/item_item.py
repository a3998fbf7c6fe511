"""Item-item neighbours from what people take one after the other.

The cosine of co-occurrence (Sarwar et al., "Item-based collaborative
filtering", 2001), where two items of a person count the less the more others
lie between them, and where items that few people touched are held back
(shrinkage, as in Bell and Koren, "Scalable Collaborative Filtering with
Jointly Derived Neighborhood Interpolation Weights", 2007). Sparse and bounded:
a person's pairs lie within a window, an item keeps its nearest neighbours.

Where nothing says what came after what, a pair counts by the chance that a walk
leads from one item to a person who took it and on to the other, popular ones held
back (RP3beta: Paudel et al., "Updatable, Accurate, Diverse, and Scalable
Recommendations for Interactive Applications", 2017).
"""

from __future__ import annotations

from collections.abc import Iterator

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
    ``neighbours``: kept of an item. Without an order: ``walk_degree`` is the
    exponent of how much a step counts the less the more there are to take,
    ``walk_popularity`` that of how many people an item at its end has."""

    half_life: float = 5.0
    window: int = 30
    most_items: int = 200
    shrinkage: float = 10.0
    neighbours: int = 50
    walk_degree: float = 0.7
    walk_popularity: float = 0.5


def train_neighbours(
    pairs: pa.Table, params: ItemItemParams, *, ordered: bool = True
) -> pa.Table:
    """NEIGHBOURS, each item's by falling score; scores are above 0, and cosines
    below 1.

    ``pairs``: user_id, item_id, recency_place (from 1, each user's newest
    first), every pair once, in any order of rows. ``ordered`` false: the places
    say nothing.
    """
    place = column(pairs, "recency_place", pa.int64()).to_numpy()
    kept = place <= params.most_items
    user, _ = codes(ids(pairs, "user_id").filter(pa.array(kept)))
    item, item_ids = codes(ids(pairs, "item_id").filter(pa.array(kept)))
    order = np.lexsort((place[kept], user))
    user, item, items = user[order], item[order], len(item_ids)
    similar = _cosines if ordered else _walks
    parts = [NEIGHBOURS.empty_table()]
    for start, found in similar(user, item, items, params):
        one, near = found.coords[0] + start, found.coords[1]
        parts.append(_nearest(item_ids, one, near, found.data, params.neighbours))
    return pa.concat_tables(parts)


def _cosines(
    user: Ints, item: Ints, items: int, params: ItemItemParams
) -> Iterator[tuple[int, sp.coo_array]]:
    """The first item of some rows of (items, items), and those rows.

    ``user``, ``item``: distinct pairs by user and time.
    """
    people = np.bincount(item, minlength=items) + params.shrinkage
    root = np.sqrt(people)
    together = _together(user, item, items, params)
    for start in range(0, items, ITEMS_AT_A_TIME):
        found = together[start : start + ITEMS_AT_A_TIME].tocoo()
        found.data /= root[found.coords[0] + start] * root[found.coords[1]]
        yield start, found


def _walks(
    user: Ints, item: Ints, items: int, params: ItemItemParams
) -> Iterator[tuple[int, sp.coo_array]]:
    """As ``_cosines``, whatever the order of time."""
    shape = (int(user.max(initial=-1)) + 1, items)
    taken = np.bincount(user, minlength=shape[0]).astype(np.float64)
    people = np.bincount(item, minlength=items).astype(np.float64)
    step = taken[user] ** -params.walk_degree
    to_items = sp.csr_matrix((step, (user, item)), shape=shape)
    step = people[item] ** -params.walk_degree
    to_people = sp.csr_matrix((step, (item, user)), shape=shape[::-1])
    for start in range(0, items, ITEMS_AT_A_TIME):
        found = (to_people[start : start + ITEMS_AT_A_TIME] @ to_items).tocoo()
        found.data /= people[found.coords[1]] ** params.walk_popularity
        away = found.coords[0] + start != found.coords[1]
        at = (found.coords[0][away], found.coords[1][away])
        yield start, sp.coo_array((found.data[away], at), shape=found.shape)


def _together(
    user: Ints, item: Ints, items: int, params: ItemItemParams
) -> sp.csr_matrix:
    """(items, items), symmetric with an empty diagonal: how often two items
    are a person's, by their distance."""
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
