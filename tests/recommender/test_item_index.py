"""The index is kept up from night to night: what it finds is what is there."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from recommender.arrays import Floats
from recommender.build import Build, open_model
from recommender.candidates import ALS, retrieve
from recommender.item_index import GONE
from recommender.params import KernelParams
from recommender.users import read_users
from tests.recommender.worlds import (
    AS_OF,
    item_names,
    items_table,
    make_build,
    users_batch,
    vectors_table,
)

ITEMS = 300
PARAMS = KernelParams(exact_up_to=20, candidates=60, als_share=1.0)
DENSE = np.random.default_rng(0).normal(size=(2 * ITEMS, 8)).astype(np.float32)


def night(
    folder: Path,
    number: int,
    names: list[str],
    *,
    dense: Floats = DENSE,
    params: KernelParams = PARAMS,
    inactive: list[int] | None = None,
) -> Build:
    """A build of that night of the items ``names``, by falling popularity."""
    items = items_table(
        len(names),
        inactive=inactive or [],
        item_popularity_30d=np.arange(len(names), 0.0, -1),
    )
    items = items.set_column(0, "item_id", pa.array(names))
    at = [int(name[1:]) for name in names]
    return make_build(
        folder,
        items,
        item_vectors=vectors_table("item_id", names, dense[at]),
        params=params,
        as_of=AS_OF + timedelta(days=number),
    )


def added(build: Build) -> int:
    return build.manifest.counts["items_added_to_index"]


def found(build: Build) -> set[str]:
    """What is nearest to a few people."""
    people = [
        {"user_id": f"u{at}", "vector": vector.tolist()}
        for at, vector in enumerate(np.random.default_rng(1).normal(size=(20, 8)))
    ]
    got = retrieve(read_users(users_batch(people), build), build)
    brought = got.ranks[:, ALS] >= 0
    pairs = zip(got.row[brought], got.item[brought], strict=True)
    return {f"{row} {build.item_ids[int(item)].as_py()}" for row, item in pairs}


def names_in(build: Build) -> set[str]:
    assert build.index is not None
    live = build.indexed[build.indexed != GONE]
    assert len(live) == len(build.index) == len(set(live.tolist()))
    return set(build.item_ids.take(pa.array(live)).to_pylist())


def test_a_night_later_only_what_is_new_is_added(tmp_path: Path) -> None:
    names = item_names(ITEMS + 10)
    first = night(tmp_path, 0, names[:ITEMS])
    assert added(first) == ITEMS - 20
    # the popular order is another, some are gone, some inactive, some new
    later = [*names[ITEMS:], *reversed(names[5:ITEMS])]
    second = night(tmp_path, 1, later, inactive=[12, 40])
    assert 0 < added(second) <= 20
    anew = night(tmp_path / "anew", 1, later, inactive=[12, 40])
    assert added(anew) == len(later) - 22
    assert names_in(second) == names_in(anew)
    assert not names_in(second) & {later[12], later[40], *names[:5]}
    assert len(found(second) & found(anew)) >= 0.97 * len(found(anew))


def test_a_vector_that_moved_is_found_where_it_is(tmp_path: Path) -> None:
    names = item_names(ITEMS)
    first = night(tmp_path, 0, names)
    assert first.index is not None
    quiet = sorted(names_in(first))[:3]
    moved = DENSE.copy()
    for name in quiet:
        moved[int(name[1:])] *= -1
    second = night(tmp_path, 1, names, dense=moved)
    assert added(second) == 3
    query = np.ones(8, np.float32)
    assert second.index is not None
    every = second.index.search(query, len(second.index), threads=1)
    ordinals = second.indexed[every.keys.astype(np.int64)]
    names = second.item_ids.take(pa.array(ordinals)).to_pylist()
    product = dict(zip(names, 1 - every.distances, strict=True))
    scale = np.linalg.norm(DENSE[:ITEMS], axis=1).max()
    for name in quiet:
        expected = query @ moved[int(name[1:])] / scale
        assert abs(product[name] - expected) < 0.01


def test_a_vector_that_hardly_moved_keeps_its_place(tmp_path: Path) -> None:
    names = item_names(ITEMS)
    night(tmp_path, 0, names)
    noise = np.random.default_rng(2).normal(size=DENSE.shape)
    near = DENSE + 0.005 * noise.astype(np.float32)
    assert added(night(tmp_path, 1, names, dense=near)) < 10


def test_new_factors_and_another_graph_are_built_anew(tmp_path: Path) -> None:
    names = item_names(ITEMS)
    night(tmp_path, 0, names)
    rotated = DENSE[:, ::-1].copy()
    trained = night(tmp_path, 1, names, dense=rotated)
    assert added(trained) == ITEMS - 20
    wide = DENSE[:, :4].copy()
    assert added(night(tmp_path, 2, names, dense=wide)) == ITEMS - 20
    other = KernelParams(exact_up_to=20, candidates=60, index_connectivity=8)
    assert added(night(tmp_path, 3, names, dense=wide, params=other)) == ITEMS - 20


def test_a_repeated_night_gives_the_same_bytes(tmp_path: Path) -> None:
    names = item_names(ITEMS + 10)
    night(tmp_path, 0, names[:ITEMS])
    once = night(tmp_path, 1, names)
    again = night(tmp_path, 1, names)
    assert once.build_id == again.build_id
    assert once.manifest.files == again.manifest.files
    assert added(again) == added(once) == 10


def test_a_build_before_that_is_torn_only_costs_time(tmp_path: Path) -> None:
    names = item_names(ITEMS)
    first = night(tmp_path, 0, names)
    index = next((tmp_path / first.build_id).rglob("items.usearch"))
    index.write_bytes(b"torn")
    second = night(tmp_path, 1, names)
    assert added(second) == ITEMS - 20
    assert open_model(tmp_path, second.build_id).index is not None
