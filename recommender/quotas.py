"""How much of a user's candidates each source may bring: as much as it was worth.

The sources that brought an item share the credit when somebody takes it, and a
source's share of the candidates is its share of the credit. The best of a source
come first, so that half the quota loses less than half of what it brings: what is
learnt again from lists that were made so moves less each time, and settles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import pyarrow as pa

from recommender.arrays import VECTOR, Doubles, column, matrix, numbers
from recommender.candidates import SOURCES, shares
from recommender.params import KernelParams

FLOOR = 0.05
"""None of the sources that are judged has less of what they share: it would have no
chance to do better."""
PRIOR = 500.0
"""Items taken that the shares given count for, beside those that are seen."""

CREDIT = np.lcm.reduce(np.arange(1, len(SOURCES) + 1))
"""Of an item taken, so that any number of sources share it in whole parts: sums
are then the same in any order."""


def with_shares(params: KernelParams, given: Mapping[str, float]) -> KernelParams:
    """``params`` with those shares of the candidates."""
    named = {f"{source}_share": share for source, share in given.items()}
    return msgspec.structs.replace(params, **named)


def learnt(
    examples: pa.Table, feature_names: Sequence[str], params: KernelParams
) -> dict[str, float]:
    """Shares by what the sources brought of what was taken, to four digits.

    ``examples``: label (above 0 where it was taken) and feature_values (list, in
    the order of ``feature_names``), as the ranker's. ``params``: the shares where
    there is nothing to learn from; their sum is kept, and so is the share of a source
    that brought nobody anything, taken or not: it had nothing yet to be judged by.
    """
    features, _ = matrix(column(examples, "feature_values", VECTOR), len(feature_names))
    at = [list(feature_names).index(f"from_{source}") for source in SOURCES]
    brings = features[:, at] > 0
    brought = brings[numbers(examples, "label", 0.0) > 0].astype(np.int64)
    count = np.maximum(brought.sum(axis=1, keepdims=True), 1)
    credit = (brought * (CREDIT // count)).sum(axis=0) / CREDIT
    found = np.array(list(shares(params).values()))
    judged = brings.any(axis=0)
    if credit.any():
        total = found[judged].sum()
        worth = credit[judged] + PRIOR * found[judged] / total
        found[judged] = total * _bounded(worth / worth.sum())
    return dict(zip(SOURCES, np.round(found, 4).tolist(), strict=True))


def _bounded(share: Doubles) -> Doubles:
    """Shares of 1, none below FLOOR; the others give in proportion."""
    low = np.zeros(len(share), np.bool_)
    while (share[~low] < FLOOR).any():
        low |= share < FLOOR
        left = 1 - FLOOR * low.sum()
        share = np.where(low, FLOOR, share * left / share[~low].sum())
    return share
