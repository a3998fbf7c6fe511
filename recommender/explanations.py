"""Why an item stands where it stands: what added most to its score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xgboost as xgb

from feedloop.contracts.lists import REASONS
from recommender.arrays import Floats, Ints
from recommender.build import Build
from recommender.ranking import TASTE, blend, known_already

EXPLAINED = 20
"""Positions from the top that are explained: about a page. It bounds the cost,
whatever the length of the list."""


@dataclass(frozen=True)
class Explanations:
    """Both (items, REASONS), the strongest first: places in the build's feature
    names, and what each added to the score."""

    features: Ints
    added: Floats


def strongest(added: Floats) -> Explanations:
    """``added`` (items, features): what each feature added."""
    first = np.argsort(-np.abs(added), axis=1, kind="stable")[:, :REASONS]
    return Explanations(first, np.take_along_axis(added, first, axis=1))


def contributions(build: Build, features: Floats) -> Floats:
    """(rows, features): what each feature adds to a row's score. ``features``:
    rows of ``features.assemble``.

    By the change of the expected score along the paths of the trees (Saabas,
    "Interpreting random forests", 2014): a twentieth of the time that SHAP values
    take. What is known before the trees is a term of its own. The blend is a sum,
    and its terms are the answer.
    """
    if build.ranker is None:
        weights = np.zeros(features.shape[1], np.float32)
        for name, weight in blend(build.params).items():
            weights[build.feature_names.index(name)] = weight
        return features * weights
    if len(features) == 0:
        return np.zeros_like(features)
    rows = xgb.DMatrix(features, feature_names=build.feature_names, nthread=1)
    found: Floats = build.ranker.predict(rows, pred_contribs=True, approx_contribs=True)
    added = found[:, :-1]
    added[:, build.feature_names.index(TASTE)] += known_already(
        build.feature_names, features
    )
    return added
