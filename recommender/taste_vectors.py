"""The vectors that ``emb_tastes`` has of people and items, and scores from them.

A person's vector is factors and a liking for each category; an item's is factors,
the bias, and of each of CATEGORIES_AN_ITEM categories the place and the share. The
score is how likely a click is, on the scale of log-odds, up to a constant.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from recommender.arrays import Doubles, Floats, Ints
from recommender.taste_model import CATEGORIES_AN_ITEM

BESIDE_FACTORS = 1 + 2 * CATEGORIES_AN_ITEM
"""What an item's vector has behind its factors: the bias, and of each category the
place and the share."""


def of_items(
    factors: Doubles, bias: Doubles, category: Ints, share: Doubles
) -> Doubles:
    """(items, factors + BESIDE_FACTORS): the items' vectors; ``category`` and
    ``share`` are (items, CATEGORIES_AN_ITEM)."""
    of = np.stack([category, share], axis=2).reshape(len(factors), -1)
    return np.column_stack([factors, bias, of])


def factors_of(items: Floats) -> int:
    """How many factors the vectors have; below 0 while no tastes are known."""
    width: int = items.shape[1]
    return width - BESIDE_FACTORS


def scores(people: Floats, row: Ints, items: Floats) -> Floats:
    """(pairs,): of each of ``items`` for the person in that ``row`` of ``people``.

    Summed factor by factor: the same whatever the other pairs.
    """
    factors = factors_of(items)
    found: Floats = items[:, factors].copy()
    for at in range(factors):
        found += people[row, at] * items[:, at]
    if people.shape[1] > factors:
        for at in range(factors + 1, items.shape[1], 2):
            category = factors + items[:, at].astype(np.int64)
            found += people[row, category] * items[:, at + 1]
    return found


def as_matrix(items: Floats, width: int) -> sp.csr_matrix:
    """(items, ``width`` + 1): what a person's vector (``width``,) and a 1 behind it
    are to be multiplied by for their scores."""
    factors = factors_of(items)
    category, share = items[:, factors + 1 :: 2], items[:, factors + 2 :: 2]
    value = np.column_stack([items[:, :factors], share, items[:, factors]])
    place = np.empty(value.shape, np.int64)
    place[:, :factors] = np.arange(factors)
    # without categories there are no shares: 0 of the first place there is
    place[:, factors:-1] = np.minimum(factors + category, width)
    place[:, -1] = width
    offsets = np.arange(len(value) + 1) * value.shape[1]
    shape = (len(value), width + 1)
    return sp.csr_matrix((value.ravel(), place.ravel(), offsets), shape=shape)
