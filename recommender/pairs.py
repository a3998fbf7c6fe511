"""Pairs of a user's row in a batch and an item's ordinal, as one sortable key."""

from __future__ import annotations

import numpy as np

from recommender.arrays import Ints, Keys

MOST_ROWS = 512
"""A key holds the row in 9 bits and the ordinal in 24; a sort key of pairs
holds a place in 23 bits more."""

ORDINAL_BITS = np.uint64(24)
ORDINAL = np.uint64((1 << 24) - 1)
PLACE_BITS = np.uint64(23)
PLACE = np.uint64((1 << 23) - 1)
ROW_AT = np.uint64(55)
"""Where the row stands in a sort key of row, 32-bit score and place."""


def pair_keys(rows: Ints, ordinals: Ints) -> Keys:
    return (rows.astype(np.uint64) << ORDINAL_BITS) | ordinals.astype(np.uint64)


def split_pairs(keys: Keys) -> tuple[Ints, Ints]:
    """Rows and ordinals."""
    return (
        (keys >> ORDINAL_BITS).astype(np.int64),
        (keys & ORDINAL).astype(np.int64),
    )


def sorted_pairs(keys: Keys) -> tuple[Keys, Ints]:
    """The keys in order and where each stood; equal ones keep their order.

    Both go into one number, for NumPy's SIMD sorts numbers, not pairs.
    """
    packed = np.sort((keys << PLACE_BITS) | np.arange(len(keys), dtype=np.uint64))
    return packed >> PLACE_BITS, (packed & PLACE).astype(np.int64)
