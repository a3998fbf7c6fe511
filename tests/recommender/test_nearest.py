from pathlib import Path

import numpy as np
import pytest

from recommender.arrays import rows_of
from recommender.nearest import nearest
from recommender.pairs import pair_keys, split_pairs
from recommender.params import KernelParams
from recommender.users import read_users
from tests.recommender.worlds import random_world


@pytest.mark.parametrize("quota", [1, 7, 40, 300, 600])
def test_the_highest_inner_products_come_first(tmp_path: Path, quota: int) -> None:
    build, batch = random_world(tmp_path, items=600, params=KernelParams())
    users = read_users(batch, build)
    eaten = pair_keys(rows_of(users.consumed_offsets), users.consumed)
    assert len(eaten) > 0
    keys, ranks = nearest(users, build, np.unique(eaten), quota)
    row, item = split_pairs(keys)
    checked = 0
    for user in np.flatnonzero(users.has_vector):
        dots = users.vectors[user] @ build.item_vectors.astype(np.float32).T
        dots *= build.item_norms
        allowed = set(build.vector_items.tolist()) - set(
            users.consumed[rows_of(users.consumed_offsets) == user].tolist()
        )
        best = sorted(allowed, key=lambda at: (-dots[at], at))[:quota]
        mine = item[row == user][np.argsort(ranks[row == user])]
        assert mine.tolist() == best
        checked += 1
    assert checked > 0
    assert set(row.tolist()) <= set(np.flatnonzero(users.has_vector).tolist())
