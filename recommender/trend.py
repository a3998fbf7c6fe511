"""How fast a trend fades: as fast as what comes next follows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from recommender.history import item_values
from recommender.inner_split import Split

HALF_LIVES_HOURS = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 12.0, 48.0, 336.0)
"""From news, which is old by the evening, to what lasts for weeks."""
LISTED, WINDOW = 20, 300
HALF_LIVES_SEEN = 6
"""A window this many half-lives long has all but a sixtieth of the weight."""


class TrendParams(msgspec.Struct, frozen=True, kw_only=True):
    """``half_life_hours``: where there is nothing to choose by. ``window_days``:
    how far back trending looks. ``label_share``, ``most_labels``: as for
    ``inner_split.split``."""

    half_life_hours: float
    window_days: float
    label_share: float
    most_labels: int

    @property
    def among(self) -> list[float]:
        """The half-lives that the window can tell."""
        longest = self.window_days * 24 / HALF_LIVES_SEEN
        return [hours for hours in HALF_LIVES_HOURS if hours <= longest]


@dataclass(frozen=True)
class Chosen:
    """``recall`` of the trending items at LISTED, by half-life tried; empty
    where there was nothing to choose by."""

    half_life_hours: float
    recall: dict[float, float]


def best_half_life(inner: Split, among: Sequence[float], default: float) -> Chosen:
    """The half-life (hours) under which the trending items were most often
    what came next; of equals the one nearest to the ``default``."""
    if not inner.before.timed or len(inner.before) == 0 or len(inner.after) == 0:
        return Chosen(default, {})
    found = {hours: _recall(inner, hours) for hours in among}
    return Chosen(
        max(found, key=lambda one: (found[one], -abs(math.log(one / default)))), found
    )


def _recall(inner: Split, half_life_hours: float) -> float:
    """Share of the labels among the trending items that a user didn't have."""
    before, after = inner.before, inner.after
    items = len(before.item_ids)
    hot = item_values(before, inner.as_of, items, half_life_hours)["item_trending"]
    first = np.argsort(-hot, kind="stable")[:WINDOW]
    users, row = np.unique(after.user, return_inverse=True)
    place = np.full(items, -1)
    place[first] = np.arange(len(first))
    row_of = np.full(len(before.user_ids), -1)
    row_of[users] = np.arange(len(users))
    theirs = (row_of[before.user] >= 0) & (place[before.item] >= 0)
    fresh = np.ones((len(users), len(first)), np.bool_)
    fresh[row_of[before.user[theirs]], place[before.item[theirs]]] = False
    listed = fresh & (np.cumsum(fresh, axis=1) <= LISTED)
    at = place[after.item]
    hit = (at >= 0) & listed[row, at]
    labels = np.bincount(row)
    return float(np.mean(np.bincount(row, hit) / labels))
