"""Why an item stands where it stands: what added most to its score."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
import xgboost as xgb

from feedloop.contracts.lists import REASONS
from recommender.arrays import Floats, Ints
from recommender.build import Build
from recommender.ranking import TASTE, blend, known_already

EXPLAINED = 20
"""Positions from the top that are explained: about a page. It bounds the cost,
whatever the length of the list."""

Contributions = Callable[[Floats], Floats]
"""From rows of ``features.assemble`` to (rows, features): what each feature adds to
a row's score."""


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


def contributions_of(build: Build) -> Contributions:
    """How the scores of ``build`` are explained.

    By the change of the expected score along the paths of the trees (Saabas,
    "Interpreting random forests", 2014): a thirtieth of the time that SHAP values
    take. What is known before the trees is a term of its own. Without a ranker
    the score is a blend, and the terms of that sum are the answer.
    """
    if build.ranker is None:
        return partial(_terms_of_the_blend, build)
    return _Paths(build.ranker, build.feature_names)


def _terms_of_the_blend(build: Build, features: Floats) -> Floats:
    weights = np.zeros(features.shape[1], np.float32)
    for name, weight in blend(build.params).items():
        weights[build.feature_names.index(name)] = weight
    return features * weights


class _Paths:
    """What the path to each leaf adds, feature by feature; known before any row
    is, so that a row costs a look at its leaves."""

    def __init__(self, ranker: xgb.Booster, names: list[str]) -> None:
        model = json.loads(ranker.save_raw("json"))
        trees = model["learner"]["gradient_booster"]["model"]["trees"]
        width = len(names)
        added = [_added_on_the_way(tree, width) for tree in trees]
        self._ranker = ranker
        self._names = names
        self._first = np.cumsum([0, *map(len, added)], dtype=np.int32)[:-1]
        self._added = np.concatenate([np.zeros((0, width), np.float32), *added])

    def __call__(self, features: Floats) -> Floats:
        if len(features) == 0:
            return np.zeros_like(features)
        rows = xgb.DMatrix(features, feature_names=self._names, nthread=1)
        leaves = self._ranker.predict(rows, pred_leaf=True).astype(np.int32)
        leaves = leaves.reshape(len(features), -1) + self._first
        starts = np.arange(len(features) + 1, dtype=np.int32) * leaves.shape[1]
        ones = np.ones(leaves.size, np.float32)
        shape = (len(features), len(self._added))
        paths = sp.csr_matrix((ones, leaves.ravel(), starts), shape=shape)
        added: Floats = paths @ self._added
        added[:, self._names.index(TASTE)] += known_already(self._names, features)
        return added


def _added_on_the_way(tree: dict[str, Any], width: int) -> Floats:
    """(nodes, width): the changes of the expected score from the root to each
    node of XGBoost's ``tree``, under the features that it was split by."""
    left, right = tree["left_children"], tree["right_children"]
    weight, expected = tree["sum_hessian"], list(tree["split_conditions"])
    inner = [node for node, child in enumerate(left) if child >= 0]
    # a child's number is higher than its parent's
    for node in reversed(inner):
        total = sum(weight[child] * expected[child] for child in _both(node, tree))
        expected[node] = total / (weight[left[node]] + weight[right[node]])
    added = np.zeros((len(left), width), np.float32)
    for node in inner:
        for child in _both(node, tree):
            added[child] = added[node]
            added[child, tree["split_indices"][node]] += (
                expected[child] - expected[node]
            )
    return added


def _both(node: int, tree: dict[str, Any]) -> tuple[int, int]:
    return tree["left_children"][node], tree["right_children"][node]
