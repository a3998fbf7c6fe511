"""The learned ranker, and the blend that ranks where there is none yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa
import xgboost as xgb

from feedloop.errors import ContractError
from recommender.arrays import (
    VECTOR,
    Bools,
    Doubles,
    Floats,
    Ints,
    codes,
    column,
    ids,
    matrix,
    numbers,
)
from recommender.build import Build
from recommender.candidates import SOURCES
from recommender.params import KernelParams
from recommender.sources import shares

RISING = (
    "als_cosine",
    "als_reciprocal_rank",
    "item_item_score",
    "item_item_reciprocal_rank",
    "ease_score",
    "ease_reciprocal_rank",
    "category_affinity",
    "taste",
    "item_ctr_30d",
    "item_trending",
    "item_trending_1h",
    "item_trending_10m",
    "item_popularity_1d",
    "item_popularity_7d",
    "item_popularity_30d",
    "trending_reciprocal_rank",
    "popular_reciprocal_rank",
)
"""The ranker's score never falls when one of these rises. Besides being obvious
this keeps a ranker that learns from a single instant from telling items apart
by their exact counts and remembering which of them did well."""

PERSONAL = {
    "als_reciprocal_rank": 1.0,
    "item_item_reciprocal_rank": 1.0,
    "ease_reciprocal_rank": 1.0,
    "als_cosine": 0.5,
}
"""The fallback's weights: reciprocal rank fusion of what the sources say
(Cormack et al., 2009), plus the cosine, which unlike a rank tells how near.
What trends and what is popular stands beside them in ``KernelParams``."""

TASTE = "taste"

HELD_OUT = 0.2
FOLDS = 3
NDCG_AT = 10
PAIRS_FROM_TOP = 20

POSITION_TREES = {
    "tree_method": "hist",
    "max_depth": 4,
    "learning_rate": 0.2,
    "reg_lambda": 1.0,
    "min_child_weight": 1.0,
}
POSITION_ROUNDS = 100
"""Hardly regularised: what is shrunk here stays in the log as bias."""


class RankerParams(msgspec.Struct, frozen=True, kw_only=True):
    """``num_threads`` is recorded because sums of floats depend on it. One by
    default: OpenMP's threads spin at thousands of barriers a training, and on
    cores that are shared that costs ten times what it saves."""

    rounds: int = 100
    max_depth: int = 5
    learning_rate: float = 0.1
    min_child_weight: float = 5.0
    subsample: float = 0.8
    colsample_bytree: float = 0.8
    reg_lambda: float = 5.0
    num_threads: int = 1


@dataclass(frozen=True)
class RankerModel:
    """``bytes`` is XGBoost's UBJSON. ``metrics``: ``groups``, ``rows``, what
    each source brought of the positives (``sources.shares``), and on held-out
    groups ``ndcg@10`` of the ranker and ``fallback_ndcg@10`` of the blend on the
    same rows. ``importances``: gain by feature, summing to 1."""

    bytes: bytes
    metrics: dict[str, float]
    importances: dict[str, float]


@dataclass(frozen=True)
class _Examples:
    """Rows sorted by group, then position."""

    group: Ints
    position: Ints
    label: Doubles
    features: Floats

    def __len__(self) -> int:
        return len(self.group)

    def only(self, rows: Bools) -> _Examples:
        return _Examples(
            self.group[rows],
            self.position[rows],
            self.label[rows],
            self.features[rows],
        )


def train_ranker(
    examples: pa.Table,
    feature_names: Sequence[str],
    params: RankerParams,
    seed: int,
) -> RankerModel | None:
    """LambdaMART (XGBoost ``rank:ndcg``) on groups of shown or retrieved items.

    ``examples``: group_id, position (whole number from 1, null where the rows
    were not shown), label (≥ 0, a gain), feature_values (list, in the order of
    ``feature_names``). The order of the rows doesn't matter. Groups without a
    positive or without a negative teach nothing and are dropped; None where no
    other is left, and the kernel then ranks by ``fallback_score``.

    A click says that an item was both seen and liked. An additive logistic
    model of the features and the position splits the two (as the two towers of
    Zhao et al., "Recommending What Video to Watch Next", 2019), and what it
    gives to the position is each row's base margin in the ranker's training,
    so that the trees explain what is left. Where position has no influence,
    neither has the correction.
    """
    known = _usable(_read(examples, len(feature_names)))
    if len(known) == 0:
        return None
    metrics = {
        "groups": float(len(np.unique(known.group))),
        "rows": float(len(known)),
        **_brought(known, feature_names),
    }
    held_out = _held_out(known.group, seed)
    if held_out.any() and not held_out.all():
        scored = known.only(held_out)
        trial = _boosted(known.only(~held_out), feature_names, params, seed)
        score = _scores(trial, feature_names, scored.features)
        blend = fallback_score(feature_names, scored.features, KernelParams())
        metrics[f"ndcg@{NDCG_AT}"] = _ndcg(scored, score)
        metrics[f"fallback_ndcg@{NDCG_AT}"] = _ndcg(scored, blend)
    booster = _boosted(known, feature_names, params, seed)
    gain = {
        name: float(np.sum(value))
        for name, value in booster.get_score(importance_type="total_gain").items()
    }
    total = sum(gain.values()) or 1.0
    return RankerModel(
        bytes=bytes(booster.save_raw("ubj")),
        metrics=metrics,
        importances={name: gain.get(name, 0.0) / total for name in feature_names},
    )


def cross_validated(
    examples: pa.Table, feature_names: Sequence[str], params: RankerParams, seed: int
) -> dict[str, float]:
    """NDCG at NDCG_AT of each group by a ranker that learned from others: every
    group is once among the one in FOLDS that is left out.

    ``examples`` as for ``train_ranker``; groups that teach nothing are left out.
    """
    known = _usable(_read(examples, len(feature_names)))
    _, names = codes(ids(examples, "group_id"))
    groups = np.random.default_rng(seed).permutation(np.unique(known.group))
    found: dict[str, float] = {}
    for fold in range(FOLDS):
        mine = np.isin(known.group, groups[fold::FOLDS])
        if mine.all() or not mine.any():
            continue
        booster = _boosted(known.only(~mine), feature_names, params, seed)
        scored = known.only(mine)
        theirs = names.take(pa.array(np.unique(scored.group))).to_pylist()
        ndcg = _ndcg_by_group(scored, _scores(booster, feature_names, scored.features))
        found.update(zip(theirs, ndcg.tolist(), strict=True))
    return found


def predict(build: Build, features: Floats) -> Floats:
    """Scores (rows,) of a matrix from ``features.assemble``: higher is better.

    Comparable within a user only. Safe from several threads.
    """
    if len(features) == 0:
        return np.zeros(0, np.float32)
    if build.ranker is None:
        return fallback_score(build.feature_names, features, build.params)
    return _scores(build.ranker, build.feature_names, features)


def known_already(feature_names: Sequence[str], features: Floats) -> Floats:
    """What a row's log-odds are known to be before the ranker adds to them: the
    taste, which is learned from every impression there is. Trees would have to
    learn it again from the few that people clicked."""
    names = list(feature_names)
    if TASTE not in names:
        return np.zeros(len(features), np.float32)
    return features[:, names.index(TASTE)]


def _scores(
    booster: xgb.Booster, feature_names: Sequence[str], features: Floats
) -> Floats:
    added: Floats = booster.inplace_predict(features, validate_features=False)
    return added + known_already(feature_names, features)


def fallback_score(
    feature_names: Sequence[str], features: Floats, params: KernelParams
) -> Floats:
    """The weighted sum of what the sources say: rises with each of them."""
    names = list(feature_names)
    score = np.zeros(len(features), np.float32)
    for name, weight in blend(params).items():
        if name not in names:
            raise ContractError(f"The fallback score needs the feature {name}.")
        score += np.float32(weight) * features[:, names.index(name)]
    return score


def blend(params: KernelParams) -> dict[str, float]:
    """The weight of each feature in ``fallback_score``."""
    return PERSONAL | {
        "trending_reciprocal_rank": params.blend_trending,
        "popular_reciprocal_rank": params.blend_popular,
    }


def best_blend(
    examples: pa.Table, feature_names: Sequence[str], among: Sequence[KernelParams]
) -> KernelParams:
    """The one ``among`` whose blend puts the positives of ``examples`` (as for
    ``train_ranker``) first by NDCG; the first one where they teach nothing."""
    known = _usable(_read(examples, len(feature_names)))
    if len(known) == 0:
        return among[0]

    def quality(params: KernelParams) -> float:
        return _ndcg(known, fallback_score(feature_names, known.features, params))

    return max(among, key=quality)


def _read(examples: pa.Table, width: int) -> _Examples:
    group, _ = codes(ids(examples, "group_id"))
    position = numbers(examples, "position", 0).astype(np.int64)
    label = numbers(examples, "label", np.nan)
    if not (np.isfinite(label) & (label >= 0)).all():
        raise ContractError("A label is null or negative; a gain is 0 or more.")
    features, present = matrix(column(examples, "feature_values", VECTOR), width)
    if not present.all():
        raise ContractError("A training example has no feature_values.")
    order = np.lexsort((*features.T[::-1], label, position, group))
    return _Examples(group[order], position[order], label[order], features[order])


def _usable(examples: _Examples) -> _Examples:
    positive = examples.label > 0
    groups = int(examples.group.max(initial=-1)) + 1
    some = np.bincount(examples.group, positive, groups) > 0
    every = np.bincount(examples.group, ~positive, groups) == 0
    return examples.only((some & ~every)[examples.group])


def _held_out(group: Ints, seed: int) -> Bools:
    """One fifth of the groups, and none where that would be less than one."""
    groups = np.unique(group)
    chosen = np.random.default_rng(seed).permutation(groups)
    return np.isin(group, chosen[: int(HELD_OUT * len(groups))])


def _boosted(
    examples: _Examples, feature_names: Sequence[str], params: RankerParams, seed: int
) -> xgb.Booster:
    names = list(feature_names)
    _, group = np.unique(examples.group, return_inverse=True)
    data = xgb.DMatrix(
        examples.features,
        examples.label,
        qid=group,
        base_margin=known_already(names, examples.features)
        + position_effects(
            examples.features, examples.position, examples.label, params, seed
        ),
        feature_names=names,
        nthread=params.num_threads,
    )
    return xgb.train(
        {
            "objective": "rank:ndcg",
            "ndcg_exp_gain": False,
            "lambdarank_pair_method": "topk",
            "lambdarank_num_pair_per_sample": PAIRS_FROM_TOP,
            "monotone_constraints": {name: 1 for name in names if name in RISING},
            "base_score": 0.0,
            **_tree_params(params, seed),
        },
        data,
        params.rounds,
    )


def position_effects(
    features: Floats, position: Ints, label: Doubles, params: RankerParams, seed: int
) -> Floats:
    """For each row, what its position alone adds to the log-odds of a label.

    Zero for rows without a position (0). From boosted trees of which each
    splits on features only or on the position only: their sum is additive.
    """
    shown = position > 0
    effects = np.zeros(len(position), np.float32)
    if len(np.unique(position[shown])) < 2:
        return effects
    width = features.shape[1]
    design = np.column_stack([features[shown], position[shown].astype(np.float32)])
    booster = xgb.train(
        {
            "objective": "binary:logistic",
            "interaction_constraints": str([list(range(width)), [width]]),
            **POSITION_TREES,
            "nthread": params.num_threads,
            "seed": seed,
        },
        xgb.DMatrix(design, label[shown] > 0, nthread=params.num_threads),
        POSITION_ROUNDS,
    )
    seen, at = np.unique(position[shown], return_inverse=True)
    probe = np.zeros((len(seen), width + 1), np.float32)
    probe[:, width] = seen
    effect = booster.inplace_predict(probe, predict_type="margin")
    effects[shown] = (effect - effect[0])[at]
    return effects


def _tree_params(params: RankerParams, seed: int) -> dict[str, object]:
    return {
        "tree_method": "hist",
        "max_depth": params.max_depth,
        "learning_rate": params.learning_rate,
        "min_child_weight": params.min_child_weight,
        "subsample": params.subsample,
        "colsample_bytree": params.colsample_bytree,
        "reg_lambda": params.reg_lambda,
        "nthread": params.num_threads,
        "seed": seed,
    }


def _brought(examples: _Examples, feature_names: Sequence[str]) -> dict[str, float]:
    """What each source brought of a group's positives, mean over the groups."""
    known = [source for source in SOURCES if f"from_{source}" in feature_names]
    if not known:
        return {}
    at = [feature_names.index(f"from_{source}") for source in known]
    positives = examples.only(examples.label > 0)
    _, row, size = np.unique(positives.group, return_inverse=True, return_counts=True)
    found = shares(positives.features[:, at] > 0, row, size, known)
    return {name: float(share.mean()) for name, share in found.items()}


def _ndcg(examples: _Examples, score: Floats) -> float:
    return float(np.mean(_ndcg_by_group(examples, score)))


def _ndcg_by_group(examples: _Examples, score: Floats) -> Doubles:
    """NDCG at NDCG_AT of each group in rising order, labels as linear gains."""
    _, start = np.unique(examples.group, return_index=True)
    place = np.arange(len(examples)) - np.repeat(
        start, np.diff(np.append(start, len(examples)))
    )
    discount = np.where(place < NDCG_AT, 1 / np.log2(place + 2), 0.0)
    by_score = examples.label[np.lexsort((-score, examples.group))]
    by_label = examples.label[np.lexsort((-examples.label, examples.group))]
    gained = np.add.reduceat(by_score * discount, start)
    ideal = np.add.reduceat(by_label * discount, start)
    found: Doubles = gained / ideal
    return found
