"""What each source of candidates brings of what people took.

Of the items that somebody took, the share that was among their candidates:

- ``from_any``     whichever source brought it: the recall of the union
- ``from_SOURCE``  that one did, perhaps beside others
- ``only_SOURCE``  that one did and no other, so that without it, it is lost

The last is what a source is worth beside the others; the shares of ``from``
overlap. What fills a user's candidates up counts as ``popular``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from recommender.arrays import Bools, Doubles, Ints, codes, flat, ids, positions
from recommender.candidates import SOURCES

ANY = "from_any"


def shares(
    brought: Bools, row: Ints, size: Ints, sources: Sequence[str] = SOURCES
) -> dict[str, Doubles]:
    """By name, the share of each user (or list) of its ``size`` items taken.

    ``brought`` (taken items, sources): which source brought it. ``row``: whose
    it is, a place in ``size``. Items that nothing brought may be left out.
    """

    def share(counted: Bools) -> Doubles:
        found: Doubles = np.bincount(row, counted, len(size)) / size
        return found

    by_how_many = brought.sum(axis=1)
    found = {ANY: share(by_how_many > 0)}
    for at, source in enumerate(sources):
        found[f"from_{source}"] = share(brought[:, at])
        found[f"only_{source}"] = share(brought[:, at] & (by_how_many == 1))
    return found


def per_user(retrieved: pa.Table, truth: pa.Table) -> pa.Table:
    """One row a user with truth: user_id (sorted) and the columns of ``shares``.

    ``retrieved``: RETRIEVED_COLUMNS of the kernel, for the pairs of ``truth``
    (user_id, item_id). Who has no candidates counts 0.
    """
    pairs = truth.select(["user_id", "item_id"]).group_by(["user_id", "item_id"])
    user, user_ids = codes(ids(pairs.aggregate([]), "user_id"))
    size = np.bincount(user, minlength=len(user_ids))
    brought = np.stack(
        [flat(retrieved[source]).is_valid().to_numpy(False) for source in SOURCES],
        axis=1,
    )
    row = positions(user_ids, ids(retrieved, "user_id"))
    return pa.table({"user_id": user_ids} | shares(brought, row, size))
