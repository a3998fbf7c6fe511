"""The items that a user would most likely click, by what ``emb_tastes`` says.

Every score is computed: by a product of each user's taste and the sparse tastes of
items. Of more than ``exact_up_to`` active items those are looked through that are
liked most by everybody, or by the people who like them most.
"""

from __future__ import annotations

import numpy as np

from recommender.arrays import Ints, Keys
from recommender.build import Build
from recommender.nearest import best_of, by_score
from recommender.users import Users


def most_liked(
    users: Users, build: Build, consumed: Keys, quota: int
) -> tuple[Keys, Ints]:
    """Keys (row, ordinal) and ranks from 0 of up to ``quota`` active items a
    user, none of the ``consumed`` ones (sorted keys)."""
    if quota == 0 or len(build.tasted_items) == 0:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    rows = np.arange(len(users))
    tastes = np.column_stack([users.taste, np.ones(len(users), np.float32)])
    # a sparse product adds up item by item: the same sum whatever the batch
    scores = np.ascontiguousarray((build.tasted @ tastes.T).T)
    row, item, score = best_of(scores, rows, build.tasted_items, consumed, quota)
    return by_score(row, item, score, len(users), quota)
