from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from feedloop.contracts.builds import MODEL, build_dir
from feedloop.contracts.seeds import Feature
from feedloop.errors import BuildInvalid, ContractError
from recommender.build import (
    CROSS_FEATURES,
    UNIT,
    Build,
    candidate_features,
    open_model,
    quantised,
    ranked_features,
)
from recommender.build_writer import model_version_of
from recommender.params import KernelParams
from tests.recommender.worlds import (
    AS_OF,
    FEATURES,
    item_names,
    items_table,
    make_build,
    no_vectors,
    random_world,
    surface,
    vectors_table,
)


def written(folder: Path, build: Build) -> dict[str, bytes]:
    root = build_dir(folder, build.build_id) / MODEL
    return {path.name: path.read_bytes() for path in root.iterdir()}


def test_the_same_inputs_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items = items_table(40, inactive=[3], item_popularity_30d=np.ones(40))
    dense = rng.normal(size=(40, 4))
    names = item_names(40)
    near = pa.table(
        {
            "item_id": ["i0001"] * 3,
            "neighbour_id": ["i0002", "i0004", "i0005"],
            "score": [0.5, 0.5, 0.9],
        }
    )
    shuffle = rng.permutation(40)
    params = KernelParams(exact_up_to=0)
    one = make_build(
        tmp_path / "one",
        items,
        item_vectors=vectors_table("item_id", names, dense),
        neighbours=near,
        params=params,
    )
    other = make_build(
        tmp_path / "other",
        items.take(shuffle),
        item_vectors=vectors_table(
            "item_id", [names[at] for at in shuffle], dense[shuffle]
        ),
        neighbours=near.take([2, 0, 1]),
        params=params,
    )
    assert one.build_id == other.build_id
    assert "items.usearch" in one.manifest.files
    assert written(tmp_path / "one", one) == written(tmp_path / "other", other)


def test_ordinals_are_the_popular_order_with_inactive_items_last(
    tmp_path: Path,
) -> None:
    items = items_table(
        5,
        inactive=[1],
        item_popularity_30d=[1.0, 9.0, 3.0, 3.0, 2.0],
        item_popularity_7d=[0.0, 0.0, 1.0, 2.0, 0.0],
        item_trending=[5.0, 9.0, 0.0, 0.0, 7.0],
        item_popularity_1d=[5.0, 9.0, 0.0, 0.0, 7.0],
    )
    build = make_build(tmp_path, items)
    assert build.item_ids.to_pylist() == ["i0003", "i0002", "i0004", "i0000", "i0001"]
    assert build.active_count == 4
    trending = [build.item_ids[at].as_py() for at in build.trending]
    assert trending == ["i0004", "i0000", "i0003", "i0002"]
    fresh = [build.item_ids[at].as_py() for at in build.fresh]
    assert fresh == ["i0000", "i0002", "i0003", "i0004"]


def test_what_is_published_later_is_not_fresh(tmp_path: Path) -> None:
    items = items_table(2)
    dates = pa.array([AS_OF + timedelta(days=1), AS_OF], pa.timestamp("us", "UTC"))
    build = make_build(tmp_path, items.set_column(2, "published_at", dates))
    assert [build.item_ids[at].as_py() for at in build.fresh] == ["i0001"]


def test_missing_values_become_the_registrys_default(tmp_path: Path) -> None:
    items = items_table(2, item_age_days=pa.array([None, 3.0]))
    build = make_build(tmp_path, items)
    at = list(build.spec.item_features).index("item_age_days")
    default = FEATURES["item_age_days"].default_value
    assert build.item_values[:, at].tolist() == [default, 3.0]


def test_only_active_items_with_a_vector_can_be_found_by_taste(tmp_path: Path) -> None:
    dense = [[1.0, 0], [0, 0], [0, 1.0]]
    build = make_build(
        tmp_path,
        items_table(3, inactive=[2]),
        item_vectors=vectors_table("item_id", item_names(3), dense),
    )
    assert build.vector_items.tolist() == [0]
    assert build.has_vector.tolist() == [True, False, True]


def test_neighbours_are_the_highest_fifty_known_ones(tmp_path: Path) -> None:
    near = [*item_names(60), "gone", "i0000"]
    neighbours = pa.table(
        {
            "item_id": ["i0000"] * 62,
            "neighbour_id": near,
            "score": [*np.arange(60.0), 99.0, 99.0],
        }
    )
    build = make_build(tmp_path, items_table(60), neighbours=neighbours)
    assert build.neighbours[0].tolist() == list(range(59, 9, -1))
    assert build.neighbour_scores[0, 0] == 59
    assert (build.neighbours[1:] == -1).all()


def test_products_of_unit_vectors_are_exact_in_any_order() -> None:
    rng = np.random.default_rng(0)
    whole = quantised(rng.normal(size=(50, 64)).astype(np.float32))
    exact = whole.astype(np.int64) @ whole.astype(np.int64).T
    single = whole.astype(np.float32) @ whole.astype(np.float32).T
    assert (single == exact).all()
    np.testing.assert_allclose(np.diag(exact) / UNIT**2, 1, atol=1e-3)


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    build = make_build(tmp_path, items_table(3))
    path = build_dir(tmp_path, build.build_id) / MODEL / "trending.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BuildInvalid, match=r"trending\.npy"):
        open_model(tmp_path, build.build_id)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    items = items_table(3)
    with pytest.raises(ContractError, match="stands twice"):
        make_build(tmp_path, pa.concat_tables([items, items]))
    with pytest.raises(ContractError, match="item_ctr_30d"):
        make_build(tmp_path, items.drop_columns("item_ctr_30d"))
    with pytest.raises(ContractError, match="Vectors of"):
        ragged_vectors = pa.table(
            {"item_id": ["i0000", "i0001"], "vector": [[1.0], [1.0, 2.0]]}
        )
        make_build(tmp_path, items, item_vectors=ragged_vectors)
    wide = Feature(
        **{
            name: getattr(FEATURES["item_age_days"], name)
            for name in Feature.__struct_fields__
        }
        | {"width": 2}
    )
    with pytest.raises(ContractError, match="width 2"):
        ranked_features({"item_age_days": wide}, "item")


def test_features_are_the_registrys_then_the_cross_features() -> None:
    names = candidate_features(FEATURES)
    assert names == [
        *ranked_features(FEATURES, "user"),
        *ranked_features(FEATURES, "item"),
        *CROSS_FEATURES,
    ]


def test_the_version_names_parameters_vectors_and_ranker() -> None:
    some = vectors_table("item_id", ["a", "b"], [[1, 0], [0, 1]])
    base = model_version_of(params=KernelParams(), item_vectors=some, ranker=None)
    same = model_version_of(
        params=KernelParams(), item_vectors=some.take([1, 0]), ranker=None
    )
    others = {
        model_version_of(
            params=KernelParams(candidates=100), item_vectors=some, ranker=None
        ),
        model_version_of(params=KernelParams(), item_vectors=no_vectors(), ranker=None),
        model_version_of(params=KernelParams(), item_vectors=some, ranker=b"x"),
    }
    assert base == same
    assert len({base} | others) == 4
    assert base.startswith("als-xgb-")


def test_no_items_at_all(tmp_path: Path) -> None:
    build = make_build(tmp_path, items_table(1).slice(0, 0), surfaces=[surface()])
    assert build.active_count == 0
    with pytest.raises(ContractError, match="no surface 'nowhere'"):
        build.surface("nowhere")


def test_a_build_opens_from_the_disk_alone(tmp_path: Path) -> None:
    build, _ = random_world(tmp_path)
    again = open_model(tmp_path, build.build_id)
    assert again.item_ids == build.item_ids
    assert again.spec == build.spec
