import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb

from feedloop.errors import ContractError
from recommender.arrays import vectors
from recommender.params import KernelParams
from recommender.ranking import (
    RankerParams,
    best_blend,
    blend,
    fallback_score,
    position_effects,
    train_ranker,
)

BLEND = blend(KernelParams())
NAMES = [*BLEND, "item_ctr_30d", "noise"]
PARAMS = RankerParams(rounds=40, max_depth=4, num_threads=1)
CTR, NOISE = NAMES.index("item_ctr_30d"), NAMES.index("noise")


def examples(
    features: np.ndarray, label: np.ndarray, *, positions: bool = False
) -> pa.Table:
    """A table of (groups, rows, features), each group in the order shown."""
    groups, rows, width = features.shape
    at = np.tile(np.arange(1, rows + 1), groups)
    return pa.table(
        {
            "group_id": [f"g{group}" for group in np.repeat(np.arange(groups), rows)],
            "position": pa.array(at if positions else [None] * len(at), pa.int32()),
            "label": label.ravel().astype(np.float32),
            "feature_values": vectors(features.reshape(-1, width).astype(np.float32)),
        }
    )


def random_features(rng: np.random.Generator, groups: int, rows: int) -> np.ndarray:
    return rng.random((groups, rows, len(NAMES)))


def clicks_on_ctr(groups: int = 300, rows: int = 10, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    features = random_features(rng, groups, rows)
    return examples(features, rng.random((groups, rows)) < features[..., CTR] ** 2)


def scores(model: bytes, features: np.ndarray) -> np.ndarray:
    booster = xgb.Booster(model_file=bytearray(model))
    flat = features.reshape(-1, features.shape[-1]).astype(np.float32)
    return booster.inplace_predict(flat).reshape(features.shape[:-1])


def test_it_learns_what_the_clicks_follow() -> None:
    model = train_ranker(clicks_on_ctr(), NAMES, PARAMS, seed=0)
    assert model is not None
    assert max(model.importances, key=lambda name: model.importances[name]) == (
        "item_ctr_30d"
    )
    assert sum(model.importances.values()) == pytest.approx(1)
    assert model.metrics["ndcg@10"] > model.metrics["fallback_ndcg@10"] + 0.1
    probe = np.full((1, 20, len(NAMES)), 0.5)
    probe[0, :, CTR] = np.linspace(0, 1, 20)
    rising = scores(model.bytes, probe)[0]
    assert (np.diff(rising) >= 0).all()
    assert rising[-1] > rising[0]


def test_the_trees_leave_alone_what_the_taste_says_already() -> None:
    rng = np.random.default_rng(3)
    features = rng.random((300, 10, len(NAMES) + 1))
    features[..., -1] = rng.normal(0, 1.5, (300, 10))
    clicked = rng.random((300, 10)) < 1 / (1 + np.exp(2 - features[..., -1]))
    table = examples(features, clicked)
    known = train_ranker(table, [*NAMES, "taste"], PARAMS, seed=0)
    learned = train_ranker(table, [*NAMES, "item_age_days"], PARAMS, seed=0)
    assert known is not None
    assert learned is not None
    assert known.importances["taste"] < learned.importances["item_age_days"] / 2
    assert known.metrics["ndcg@10"] > learned.metrics["ndcg@10"] - 0.02


def test_it_repeats_whatever_the_order_of_the_rows() -> None:
    table = clicks_on_ctr()
    shuffled = table.take(np.random.default_rng(1).permutation(len(table)))
    one = train_ranker(table, NAMES, PARAMS, seed=3)
    other = train_ranker(shuffled, NAMES, PARAMS, seed=3)
    assert one is not None
    assert one == other


def test_metrics_say_which_source_brought_what_was_taken() -> None:
    """Of each group's two items the first is taken; half of these came from
    ``trending``, one in four from ``als`` too, and none from ``fresh``."""
    names = [*NAMES, "from_als", "from_trending", "from_fresh"]
    features = np.zeros((40, 2, len(names)))
    features[:, 1, -3:] = 1
    features[::2, 0, -2] = 1
    features[::4, 0, -3] = 1
    label = np.tile([1.0, 0.0], (40, 1))
    model = train_ranker(examples(features, label), names, PARAMS, seed=0)
    assert model is not None
    assert model.metrics["from_trending"] == 0.5
    assert model.metrics["from_als"] == 0.25
    assert model.metrics["from_fresh"] == 0
    assert model.metrics["from_any"] == 0.5
    assert model.metrics["only_trending"] == 0.25
    assert model.metrics["only_als"] == 0


def test_groups_without_both_outcomes_are_dropped() -> None:
    features = random_features(np.random.default_rng(0), 3, 4)
    label = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    model = train_ranker(examples(features, label), NAMES, PARAMS, seed=0)
    assert model is not None
    assert model.metrics == {"groups": 1, "rows": 4}
    nothing = examples(features[:2], label[:2])
    assert train_ranker(nothing, NAMES, PARAMS, seed=0) is None
    assert train_ranker(nothing.slice(0, 0), NAMES, PARAMS, seed=0) is None


def biased_log(strength: float) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """A log in which people look at position p with probability p**-strength,
    like an item by its ctr alone, and the lists were sorted mostly by noise."""
    rng = np.random.default_rng(7)
    features = random_features(rng, 1500, 15)
    by = features[..., NOISE] + 0.5 * rng.random((1500, 15))
    features = np.take_along_axis(features, np.argsort(-by, axis=1)[..., None], 1)
    seen = np.arange(1, 16) ** -strength
    liked = 0.5 * features[..., CTR] ** 2
    label = rng.random(liked.shape) < seen * liked
    fresh = random_features(rng, 500, 15)
    return examples(features, label, positions=True), fresh, label


def ndcg_of_truth(score: np.ndarray, fresh: np.ndarray) -> float:
    gain = np.take_along_axis(fresh[..., CTR] ** 2, np.argsort(-score, axis=1), 1)
    best = -np.sort(-(fresh[..., CTR] ** 2), axis=1)
    discount = 1 / np.log2(np.arange(gain.shape[1]) + 2)
    return float(np.mean((gain @ discount) / (best @ discount)))


def test_the_position_correction_finds_the_truth_in_a_biased_log() -> None:
    log, fresh, _ = biased_log(strength=1.0)
    corrected = train_ranker(log, NAMES, PARAMS, seed=0)
    forgetful = log.set_column(1, "position", pa.nulls(len(log), pa.int32()))
    naive = train_ranker(forgetful, NAMES, PARAMS, seed=0)
    assert corrected is not None
    assert naive is not None
    right = ndcg_of_truth(scores(corrected.bytes, fresh), fresh)
    wrong = ndcg_of_truth(scores(naive.bytes, fresh), fresh)
    # what is lost against the perfect order shrinks to less than half
    assert 1 - right < 0.5 * (1 - wrong)
    assert naive.importances["noise"] > 2 * corrected.importances["noise"]


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_position_effects_follow_the_bias_and_vanish_without_one(
    strength: float,
) -> None:
    log, _, label = biased_log(strength)
    features = np.stack(log["feature_values"].to_numpy())
    position = log["position"].to_numpy().astype(np.int64)
    effects = position_effects(
        features, position, label.ravel().astype(float), PARAMS, seed=0
    )
    by_position = effects.reshape(label.shape)[0]
    expected = -strength * np.log(np.arange(1, 16))
    # log-odds are a little steeper than log-probabilities
    np.testing.assert_allclose(by_position, expected, atol=0.7 if strength else 0.25)


def test_rows_without_a_position_have_no_effect_of_one() -> None:
    log, _, label = biased_log(1.0)
    features = np.stack(log["feature_values"].to_numpy())
    position = log["position"].to_numpy().astype(np.int64)
    position[: len(position) // 2] = 0
    effects = position_effects(
        features, position, label.ravel().astype(float), PARAMS, seed=0
    )
    assert not effects[: len(position) // 2].any()
    assert effects[len(position) // 2 :].any()


def weighed(features: np.ndarray) -> np.ndarray:
    return fallback_score(NAMES, features, KernelParams())


def test_the_fallback_rises_with_each_of_its_features() -> None:
    base = np.full((1, len(NAMES)), 0.5, np.float32)
    for name in BLEND:
        better = base.copy()
        better[0, NAMES.index(name)] += 0.1
        assert weighed(better) > weighed(base)
    assert weighed(base)[0] == pytest.approx(0.5 * sum(BLEND.values()))


def test_the_blend_is_the_one_that_puts_the_positives_first() -> None:
    """Only what trends says what is clicked; the other sources mislead."""
    rng = np.random.default_rng(0)
    features = random_features(rng, 50, 20)
    hot = features[..., NAMES.index("trending_reciprocal_rank")]
    table = examples(features, hot > 0.9)
    among = [
        KernelParams(),
        KernelParams(blend_trending=16),
        KernelParams(blend_popular=16),
    ]
    assert best_blend(table, NAMES, among) == among[1]
    assert best_blend(table.slice(0, 0), NAMES, among) == among[0]


def test_bad_examples_are_refused() -> None:
    table = clicks_on_ctr(5)
    with pytest.raises(ContractError, match="expected"):
        train_ranker(table, NAMES[:-1], PARAMS, seed=0)
    negative = table.set_column(2, "label", pa.array([-1.0] * len(table)))
    with pytest.raises(ContractError, match="label"):
        train_ranker(negative, NAMES, PARAMS, seed=0)
    with pytest.raises(ContractError, match="position"):
        train_ranker(table.drop_columns("position"), NAMES, PARAMS, seed=0)
