"""The order of the list for people of whom nothing is known."""

from __future__ import annotations

import numpy as np

from recommender.arrays import Floats
from recommender.build import Build

BEHIND = np.float32(0.999)
"""Of two items of one place, the trending one stands first."""


def interleaved(build: Build, features: Floats) -> Floats:
    """Scores that put the first trending item first, then the first popular
    one, then the second trending one, and so on."""
    trending, popular = _places(build, features)
    score: Floats = np.maximum(trending, popular)
    return score


def what_interleaved(build: Build, features: Floats) -> Floats:
    """(rows, features): the score, under the place in the order it comes from."""
    trending, popular = _places(build, features)
    added = np.zeros_like(features)
    names = build.feature_names
    added[:, names.index("trending_reciprocal_rank")] = np.where(
        trending >= popular, trending, 0
    )
    added[:, names.index("popular_reciprocal_rank")] = np.where(
        trending < popular, popular, 0
    )
    return added


def _places(build: Build, features: Floats) -> tuple[Floats, Floats]:
    names = build.feature_names
    trending = features[:, names.index("trending_reciprocal_rank")]
    popular = features[:, names.index("popular_reciprocal_rank")]
    return trending, popular * BEHIND
