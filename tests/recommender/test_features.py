from pathlib import Path

import numpy as np
import pytest

from recommender.build import Build
from recommender.candidates import retrieve
from recommender.features import assemble
from recommender.users import read_users
from tests.recommender.worlds import (
    FEATURES,
    items_table,
    make_build,
    random_world,
    users_batch,
    vectors_table,
)


def rows_by_name(build: Build, **row: object) -> dict[str, dict[str, float]]:
    users = read_users(users_batch([{"user_id": "u"} | row]), build)
    candidates = retrieve(users, build)
    features = assemble(users, candidates, build)
    return {
        build.item_ids[item].as_py(): dict(
            zip(build.feature_names, features[at].tolist(), strict=True)
        )
        for at, item in enumerate(candidates.item)
    }


def test_a_candidate_row_holds_what_is_known_of_user_item_and_both(
    tmp_path: Path,
) -> None:
    build = make_build(
        tmp_path,
        items_table(3, categories=["a", "b", "x"], item_ctr_30d=[0.1, 0.2, 0.3]),
        item_vectors=vectors_table(
            "item_id", ["i0000", "i0001", "i0002"], [[3.0, 0], [0, 0], [0.6, 0.8]]
        ),
        categories=["a", "b"],
    )
    found = rows_by_name(
        build,
        vector=[0.0, 2.0],
        user_category_affinity=[0.25, 0.75],
        user_events_7d=7.0,
        user_dwell_7d_ms=None,
    )
    first, second, third = found["i0000"], found["i0001"], found["i0002"]
    assert first["user_events_7d"] == 7
    assert first["user_dwell_7d_ms"] == FEATURES["user_dwell_7d_ms"].default_value
    assert third["item_ctr_30d"] == pytest.approx(0.3)
    assert [row["als_cosine"] for row in (first, second, third)] == pytest.approx(
        [0, 0, 0.8], abs=1e-3
    )
    # by cosine: the third, the first; the second has no vector
    assert third["als_reciprocal_rank"] == 1
    assert first["als_reciprocal_rank"] == pytest.approx(60 / 61)
    assert second["als_reciprocal_rank"] == 0
    # the third item's category is not one of the build's
    affinities = [row["category_affinity"] for row in (first, second, third)]
    assert affinities == [0.25, 0.75, 0]
    assert [row["popular_reciprocal_rank"] for row in (first, second, third)] == (
        pytest.approx([1, 60 / 61, 60 / 62])
    )
    assert first["from_als"] == 1
    assert second["from_als"] == 0


def test_of_an_unknown_user_everything_personal_is_the_default(tmp_path: Path) -> None:
    build, _ = random_world(tmp_path)
    for row in rows_by_name(build).values():
        for name, default in build.spec.user_features.items():
            assert row[name] == default
        for name in (
            "als_cosine",
            "als_reciprocal_rank",
            "item_item_score",
            "ease_score",
        ):
            assert row[name] == 0


def test_an_affinity_of_another_length_is_cut_or_filled(tmp_path: Path) -> None:
    build = make_build(tmp_path, items_table(2, categories=["a", "b"]))
    short = rows_by_name(build, user_category_affinity=[0.5])
    long = rows_by_name(build, user_category_affinity=[0.5, 0.25, 0.25])
    assert [row["category_affinity"] for row in short.values()] == [0.5, 0]
    assert [row["category_affinity"] for row in long.values()] == [0.5, 0.25]


def test_an_item_without_any_popularity_has_no_rank_in_it(tmp_path: Path) -> None:
    build = make_build(
        tmp_path,
        items_table(
            2,
            item_trending=[1.0, 0.0],
            item_popularity_1d=[1.0, 0.0],
            item_popularity_7d=[1.0, 0.0],
            item_popularity_30d=[1.0, 0.0],
        ),
    )
    found = rows_by_name(build)
    assert found["i0000"]["trending_reciprocal_rank"] == 1
    assert found["i0001"]["trending_reciprocal_rank"] == 0
    assert found["i0001"]["popular_reciprocal_rank"] == 0


def test_no_value_is_missing(tmp_path: Path) -> None:
    build, batch = random_world(tmp_path)
    users = read_users(batch, build)
    assert np.isfinite(assemble(users, retrieve(users, build), build)).all()
