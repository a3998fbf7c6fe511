"""What adds to a score, and that nothing is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xgboost as xgb

from recommender.explanations import contributions_of, strongest
from recommender.ranking import predict
from tests.recommender.worlds import items_table, make_build


def test_the_feature_that_decides_is_the_first_reason(tmp_path: Path) -> None:
    names = make_build(tmp_path / "names", items_table(3)).feature_names
    rng = np.random.default_rng(1)
    features = rng.random((4000, len(names)), np.float32)
    strong, weak = names.index("item_ctr_30d"), names.index("als_cosine")
    label = 3 * features[:, strong] - features[:, weak]
    ranker = xgb.train(
        {"max_depth": 3, "nthread": 1, "base_score": 0.0},
        xgb.DMatrix(features, label, feature_names=names, nthread=1),
        60,
    )
    build = make_build(
        tmp_path / "ranked", items_table(3), ranker=bytes(ranker.save_raw("ubj"))
    )
    asked = np.full((2, len(names)), 0.5, np.float32)
    asked[0, strong], asked[1, strong] = 0.99, 0.01
    asked[:, weak] = 0.6
    asked[:, names.index("taste")] = 0
    found = strongest(contributions_of(build)(asked))
    assert found.features[:, :2].tolist() == [[strong, weak]] * 2
    assert found.added[0, 0] > 0 > found.added[1, 0]
    assert found.added[0, 1] < 0
    # the others add nothing to speak of, so that the reasons are the whole score
    assert found.added.sum(axis=1) + _mean(ranker, features) == pytest.approx(
        predict(build, asked), abs=0.15
    )


def test_the_taste_that_the_trees_add_to_is_a_reason(tmp_path: Path) -> None:
    names = make_build(tmp_path / "names", items_table(3)).feature_names
    features = np.random.default_rng(1).random((400, len(names)), np.float32)
    ranker = xgb.train(
        {"max_depth": 2, "nthread": 1, "base_score": 0.0},
        xgb.DMatrix(features, features[:, 0], feature_names=names, nthread=1),
        20,
    )
    build = make_build(
        tmp_path / "ranked", items_table(3), ranker=bytes(ranker.save_raw("ubj"))
    )
    asked = features[:2].copy()
    asked[1] = asked[0]
    asked[1, names.index("taste")] = -3
    found = strongest(contributions_of(build)(asked))
    assert names[found.features[1, 0]] == "taste"
    low, high = predict(build, asked)[[1, 0]]
    assert high - low == pytest.approx(asked[0, names.index("taste")] + 3, abs=0.1)


def test_what_the_paths_add_is_what_xgboost_says(tmp_path: Path) -> None:
    names = make_build(tmp_path / "names", items_table(3)).feature_names
    rng = np.random.default_rng(1)
    features = rng.random((600, len(names)), np.float32)
    # a tree that never splits and trees of different depths, with missing values
    features[rng.random(features.shape) < 0.1] = np.nan
    label = np.nansum(features[:, :4], axis=1)
    ranker = xgb.train(
        {"max_depth": 4, "nthread": 1, "base_score": 0.0, "gamma": 1.5},
        xgb.DMatrix(features, label, feature_names=names, nthread=1),
        30,
    )
    build = make_build(
        tmp_path / "ranked", items_table(3), ranker=bytes(ranker.save_raw("ubj"))
    )
    found = contributions_of(build)(features)
    rows = xgb.DMatrix(features, feature_names=names, nthread=1)
    theirs = ranker.predict(rows, pred_contribs=True, approx_contribs=True)[:, :-1]
    theirs[:, names.index("taste")] += features[:, names.index("taste")]
    assert found == pytest.approx(theirs, abs=1e-5, nan_ok=True)
    assert contributions_of(build)(features[:0]).shape == (0, len(names))


def _mean(ranker: xgb.Booster, features: np.ndarray) -> float:
    return float(ranker.inplace_predict(features, validate_features=False).mean())


def test_without_a_ranker_the_terms_of_the_blend_are_the_reasons(
    tmp_path: Path,
) -> None:
    build = make_build(tmp_path, items_table(3))
    names = build.feature_names
    features = np.zeros((1, len(names)), np.float32)
    features[0, names.index("als_cosine")] = 0.9
    features[0, names.index("popular_reciprocal_rank")] = 0.4
    features[0, names.index("item_age_days")] = 100
    found = strongest(contributions_of(build)(features))
    first, second, _ = (names[at] for at in found.features[0])
    assert (first, second) == ("als_cosine", "popular_reciprocal_rank")
    assert found.added.sum() == pytest.approx(predict(build, features)[0])
