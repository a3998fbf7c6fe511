"""Item-item neighbours from a random walk, sparse and bounded.

RP3beta: Paudel et al., "Updatable, Accurate, Diverse, and Scalable
Recommendations for Interactive Applications" (2017). A walk goes from an item
to one of the people who touched it and on to one of theirs; the chance to end
at another item, raised to ``alpha`` and divided by that item's popularity to
the power ``beta``, is the neighbour's score.
"""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from recommender.arrays import Ints, offsets_of, places_in
from recommender.history import History

NEIGHBOURS = pa.schema(
    [
        ("item_id", pa.string()),
        ("neighbour_id", pa.string()),
        ("score", pa.float32()),
    ]
)

ITEMS_AT_A_TIME = 1024


class ItemItemParams(msgspec.Struct, frozen=True, kw_only=True):
    """``most_items``: of one person, the newest; bounds the work for heavy
    users. ``neighbours``: kept of an item."""

    alpha: float = 0.8
    beta: float = 0.3
    most_items: int = 200
    neighbours: int = 50


def train_neighbours(history: History, params: ItemItemParams) -> pa.Table:
    """NEIGHBOURS, each item's by falling score; a score is over the item's
    highest, so that the nearest one has 1."""
    items = len(history.item_ids)
    rows, offsets = history.pairs()
    rows = rows[places_in(offsets) < params.most_items]
    seen = sp.csr_matrix(
        (np.ones(len(rows)), (history.user[rows], history.item[rows])),
        shape=(len(history.user_ids), items),
    )
    people = np.asarray(seen.sum(axis=0)).ravel()
    theirs = np.asarray(seen.sum(axis=1)).ravel()
    to_people = (sp.diags_array(1 / np.maximum(people, 1)) @ seen.T).tocsr()
    to_items = (sp.diags_array(1 / np.maximum(theirs, 1)) @ seen).tocsr()
    damping = np.maximum(people, 1) ** params.beta
    parts = [NEIGHBOURS.empty_table()]
    for start in range(0, items, ITEMS_AT_A_TIME):
        walk = (to_people[start : start + ITEMS_AT_A_TIME] @ to_items).tocoo()
        item, near = walk.coords[0] + start, walk.coords[1]
        score = walk.data**params.alpha / damping[near]
        other = item != near
        parts.append(
            _nearest(history, item[other], near[other], score[other], params.neighbours)
        )
    return pa.concat_tables(parts)


def _nearest(
    history: History,
    item: Ints,
    near: Ints,
    score: np.ndarray[tuple[int], np.dtype[np.float64]],
    most: int,
) -> pa.Table:
    order = np.lexsort((near, -score, item))
    item, near, score = item[order], near[order], score[order]
    offsets = offsets_of(item, len(history.item_ids))
    best = score[offsets[item]]
    kept = places_in(offsets) < most
    return pa.table(
        [
            history.item_ids.take(pa.array(item[kept])),
            history.item_ids.take(pa.array(near[kept])),
            pa.array((score / best)[kept], pa.float32()),
        ],
        schema=NEIGHBOURS,
    )
