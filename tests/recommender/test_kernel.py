from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedloop.contracts.kernel import LIST_COLUMNS, Kernel
from feedloop.contracts.lists import COLD_USER, EXPECTED, REASONS, rec_id
from feedloop.errors import ContractError
from recommender.arrays import VECTOR, column, matrix
from recommender.build import Build, open_model
from recommender.embeddings import (
    AlsParams,
    fold_in_users,
    map_cold_items,
    train_item_factors,
)
from recommender.explanations import EXPLAINED
from recommender.kernel import TRAINING_COLUMNS, ListKernel, rebatched
from recommender.params import KernelParams
from tests.recommender.worlds import (
    items_table,
    make_build,
    no_vectors,
    random_world,
    ranked_world,
    surface,
    users_batch,
)

HOME = surface(length=20, explore=1, cap=8)


@pytest.fixture(scope="module", params=["exact", "index"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Build, pa.RecordBatch]:
    params = KernelParams(
        candidates=50, exact_up_to=0 if request.param == "index" else 1000
    )
    folder = tmp_path_factory.mktemp(request.param)
    return ranked_world(folder, HOME, params=params)


def lists_of(kernel: Kernel, users: pa.RecordBatch) -> pa.RecordBatch:
    return kernel.lists(users, "home")


def scored_with(build: Build, row: dict[str, Any]) -> list[list[float]]:
    """The feature rows of a list's items, put together as LIST_COLUMNS says."""
    items = build.ordinals(pa.array(row["item_ids"]))
    own = np.reshape(row["candidate_values"], (len(items), -1))
    return [
        [*row["user_values"], *build.item_values[item].tolist(), *values.tolist()]
        for item, values in zip(items, own, strict=True)
    ]


def test_lists_keep_the_contract(world: tuple[Build, pa.RecordBatch]) -> None:
    build, users = world
    found = lists_of(ListKernel(build), users)
    assert found.schema == LIST_COLUMNS
    found.validate(full=True)
    assert found["user_id"] == users["user_id"]
    width = len(build.feature_names)
    for row in found.to_pylist():
        assert row["rec_id"] == rec_id(row["user_id"], "home", build.build_id)
        assert row["surface"] == "home"
        assert len(row["item_ids"]) == HOME.list_length
        for name in ("scores", "sources", "propensities", "pool_sizes"):
            assert len(row[name]) == len(row["item_ids"])
        assert all(
            (size > 1) == (chance < 1)
            for size, chance in zip(row["pool_sizes"], row["propensities"], strict=True)
        )
        assert len(row["expectations"]) == EXPECTED * len(row["item_ids"])
        for name in ("reasons", "reason_values"):
            assert len(row[name]) == REASONS * min(EXPLAINED, len(row["item_ids"]))
        assert len(row["user_values"]) == len(build.spec.user_features)
        own = width - len(row["user_values"]) - build.item_values.shape[1]
        assert len(row["candidate_values"]) == own * len(row["item_ids"])


def test_logged_features_are_what_the_ranker_was_given(
    world: tuple[Build, pa.RecordBatch],
) -> None:
    build, users = world
    found = lists_of(ListKernel(build), users)
    rows = [values for row in found.to_pylist() for values in scored_with(build, row)]
    again = build.ranker.inplace_predict(np.array(rows, np.float32))
    assert (again == found["scores"].flatten().to_numpy()).all()


def test_twice_the_same_bytes_from_the_same_folder(
    world: tuple[Build, pa.RecordBatch], tmp_path: Path
) -> None:
    build, users = world
    one = lists_of(ListKernel(build, seed=4, threads=1), users)
    other = lists_of(ListKernel(build, seed=4, threads=3), users)
    assert one.serialize() == other.serialize()
    assert one != lists_of(ListKernel(build, seed=5), users)


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_a_list_does_not_depend_on_the_batch(
    world: tuple[Build, pa.RecordBatch], data: st.DataObject
) -> None:
    build, users = world
    kernel = ListKernel(build, threads=1)
    expected = {
        row["user_id"]: row
        for row in pa.Table.from_batches([lists_of(kernel, users)]).to_pylist()
    }
    order = data.draw(st.permutations(range(len(users))))
    size = data.draw(st.integers(1, len(users)))
    shuffled = users.take(pa.array(order))
    for start in range(0, len(users), size):
        for row in lists_of(kernel, shuffled.slice(start, size)).to_pylist():
            assert row == expected[row["user_id"]]


def test_chunks_and_threads_change_nothing(
    world: tuple[Build, pa.RecordBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    build, users = world
    expected = lists_of(ListKernel(build), users)
    for size in (1, 7, 512):
        monkeypatch.setattr("recommender.kernel.USERS_A_CHUNK", size)
        assert lists_of(ListKernel(build, threads=3), users) == expected


def test_a_stream_is_cut_anew_and_gives_the_same_lists(
    world: tuple[Build, pa.RecordBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    build, users = world
    monkeypatch.setattr("recommender.kernel.USERS_A_BATCH", 16)
    kernel = ListKernel(build)

    def pieces() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(users), 3):
            yield users.slice(start, 3)

    found = list(kernel.stream(pieces(), "home"))
    assert [len(batch) for batch in found] == [16, 16, 16, 2]
    assert pa.Table.from_batches(found).combine_chunks() == pa.Table.from_batches(
        [lists_of(kernel, users)]
    )


def test_rebatching_keeps_every_row_in_order() -> None:
    batch = pa.record_batch({"at": list(range(23))})
    pieces = [batch.slice(0, 0), batch.slice(0, 13), batch.slice(13, 10)]
    found = list(rebatched(pieces, 5))
    assert [len(part) for part in found] == [5, 5, 5, 5, 3]
    assert pa.Table.from_batches(found)["at"].to_pylist() == list(range(23))
    assert list(rebatched([], 5)) == []


@settings(deadline=None, max_examples=40)
@given(
    histories=st.lists(
        st.tuples(
            st.sets(st.integers(0, 130), max_size=130),
            st.lists(st.integers(0, 130), max_size=10),
            st.booleans(),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_no_list_holds_an_inactive_consumed_or_repeated_item(
    world: tuple[Build, pa.RecordBatch],
    histories: list[tuple[set[int], list[int], bool]],
) -> None:
    build, _ = world
    active = set(build.item_ids[: build.active_count].to_pylist())
    rows = [
        {
            "user_id": f"u{at}",
            "consumed_items": [f"i{item:04d}" for item in sorted(consumed)],
            "recent_items": [f"i{item:04d}" for item in recent],
            "vector": np.sin(np.arange(8) + at).tolist() if has_vector else None,
        }
        for at, (consumed, recent, has_vector) in enumerate(histories)
    ]
    found = lists_of(ListKernel(build, threads=1), users_batch(rows)).to_pylist()
    for row, (consumed, _, _) in zip(found, histories, strict=True):
        left = active - {f"i{item:04d}" for item in consumed}
        assert len(row["item_ids"]) == len(set(row["item_ids"]))
        assert set(row["item_ids"]) <= (left or active)
        assert len(row["item_ids"]) == min(HOME.list_length, len(left or active))


def test_everyone_gets_items_of_their_taste_new_ones_too(tmp_path: Path) -> None:
    """Forty people of two tastes; each taste has twenty items that are known
    and one that nobody has seen yet, of that taste's category."""
    rows = [
        (f"u{user:02d}", f"i{item:04d}", 1.0)
        for user in range(40)
        for item in range(40)
        if user % 2 == item % 2 and (user * 7 + item) % 5
    ]
    log = pa.table(
        {
            "user_id": [user for user, _, _ in rows],
            "item_id": [item for _, item, _ in rows],
            "confidence": [weight for *_, weight in rows],
        }
    )
    items = items_table(42, categories=["even", "odd"])
    catalogue = pa.table(
        {
            "item_id": items["item_id"],
            "category": items["category"],
            "tags": pa.nulls(42, pa.list_(pa.string())),
            "title": pa.nulls(42, pa.string()),
        }
    )
    params = AlsParams(factors=2, regularization=1.0, iterations=10, alpha=5.0)
    factors = train_item_factors(log, params)
    build = make_build(
        tmp_path,
        items,
        item_vectors=pa.concat_tables([factors, map_cold_items(catalogue, factors)]),
        surfaces=[surface(length=10)],
        params=KernelParams(
            candidates=20,
            als_share=1.0,
            item_item_share=0,
            trending_share=0,
            popular_share=0,
            fresh_share=0,
        ),
    )
    vectors = fold_in_users(log, factors, params)
    seen: dict[str, list[str]] = {}
    for user, item, _ in rows:
        seen.setdefault(user, []).append(item)
    users = users_batch(
        [
            {
                "user_id": row["user_id"],
                "vector": row["vector"],
                "consumed_items": seen[row["user_id"]],
            }
            for row in vectors.to_pylist()
        ]
    )
    for row in ListKernel(build).lists(users, "home").to_pylist():
        taste = int(row["user_id"][1:]) % 2
        unseen = [
            f"i{item:04d}"
            for item in range(42)
            if item % 2 == taste and f"i{item:04d}" not in seen[row["user_id"]]
        ]
        assert set(row["item_ids"][: len(unseen)]) == set(unseen)
        assert f"i{40 + taste:04d}" in row["item_ids"]


def test_the_cold_list_takes_trending_and_popular_items_in_turn(
    tmp_path: Path,
) -> None:
    popularity = np.arange(20, 0, -1.0)
    build = make_build(
        tmp_path,
        items_table(
            20,
            item_trending=np.roll(popularity, 10),
            item_popularity_1d=np.roll(popularity, 10),
            item_popularity_30d=popularity,
        ),
        surfaces=[surface(length=6)],
    )
    found = ListKernel(build).cold_lists("home")
    assert found.schema == LIST_COLUMNS
    row = found.to_pylist()[0]
    assert row["user_id"] == COLD_USER
    assert row["item_ids"] == ["i0010", "i0000", "i0011", "i0001", "i0012", "i0002"]
    assert row["scores"] == sorted(row["scores"], reverse=True)
    # an item stands there because it trends or because it is popular
    assert (
        row["reasons"][::REASONS]
        == [
            "trending_reciprocal_rank",
            "popular_reciprocal_rank",
        ]
        * 3
    )
    assert row["reason_values"][::REASONS] == row["scores"]


def test_worlds_with_next_to_nothing_in_them(tmp_path: Path) -> None:
    home = [surface(length=10, explore=1, cap=2)]
    users = users_batch(
        [{"user_id": "a"}, {"user_id": "b", "consumed_items": ["i0000"]}]
    )
    one = ListKernel(make_build(tmp_path / "one", items_table(1), surfaces=home))
    for row in one.lists(users, "home").to_pylist():
        assert row["item_ids"] == ["i0000"]
    asleep = make_build(
        tmp_path / "none", items_table(2, inactive=[0, 1]), surfaces=home
    )
    for batch in (
        ListKernel(asleep).lists(users, "home"),
        ListKernel(asleep).cold_lists("home"),
    ):
        assert batch.schema == LIST_COLUMNS
        assert all(row["item_ids"] == [] for row in batch.to_pylist())
    assert len(one.lists(users.slice(0, 0), "home")) == 0
    empty = make_build(tmp_path / "empty", items_table(1).slice(0, 0), surfaces=home)
    assert ListKernel(empty).cold_lists("home").to_pylist()[0]["item_ids"] == []


def test_wrong_users_are_refused(world: tuple[Build, pa.RecordBatch]) -> None:
    build, users = world
    kernel = ListKernel(build)
    with pytest.raises(ContractError, match="recent_items is missing"):
        kernel.lists(users.drop_columns(["recent_items"]), "home")
    with pytest.raises(ContractError, match="stands twice"):
        kernel.lists(pa.concat_batches([users, users]), "home")
    short = users_batch([{"user_id": "u", "vector": [1.0, 2.0]}])
    with pytest.raises(ContractError, match="Vectors of 2 elements where 8"):
        kernel.lists(short, "home")
    with pytest.raises(ContractError, match="no surface"):
        kernel.lists(users, "elsewhere")


def test_other_widths_of_arrow_types_are_read_too(
    world: tuple[Build, pa.RecordBatch],
) -> None:
    build, users = world
    wide = pa.schema(
        [
            pa.field("user_id", pa.large_string()),
            pa.field("vector", pa.list_(pa.float64())),
            pa.field("user_category_affinity", pa.large_list(pa.float64())),
            pa.field("taste", pa.large_list(pa.float64())),
            pa.field("recent_items", pa.large_list(pa.large_string())),
            pa.field("consumed_items", pa.list_(pa.string())),
            *(field for field in users.schema if pa.types.is_floating(field.type)),
        ]
    )
    kernel = ListKernel(build)
    assert kernel.lists(users.cast(wide), "home") == kernel.lists(users, "home")


def test_training_rows_are_the_kernels_own_candidates(
    world: tuple[Build, pa.RecordBatch],
) -> None:
    build, users = world
    kernel = ListKernel(build)
    lists = kernel.lists(users, "home").to_pylist()
    retrieved, other = lists[1], lists[2]
    consumed = users["consumed_items"][2].as_py()[0]
    positives = pa.table(
        {
            "user_id": [retrieved["user_id"]] * 2 + [other["user_id"], "nobody"],
            "item_id": [*retrieved["item_ids"][:2], consumed, "i0001"],
        }
    )
    found = kernel.candidates_for_training(users, positives)
    assert found.schema == TRAINING_COLUMNS
    # the other user's positive was not retrieved: no group, and none put in
    assert set(found["group_id"].to_pylist()) == {retrieved["user_id"]}
    labels = dict(
        zip(found["item_id"].to_pylist(), found["label"].to_pylist(), strict=True)
    )
    assert sorted(item for item, label in labels.items() if label) == sorted(
        retrieved["item_ids"][:2]
    )
    assert len(labels) == len(found) == build.params.candidates
    # scored with the same features as in the list
    width = len(build.feature_names)
    features, _ = matrix(column(found, "feature_values", VECTOR), width)
    shown = scored_with(build, retrieved)
    at = found["item_id"].to_pylist().index(retrieved["item_ids"][0])
    assert features[at].tolist() == shown[0]


def test_negatives_are_a_bounded_seeded_sample(tmp_path: Path) -> None:
    build, users = random_world(
        tmp_path, params=KernelParams(candidates=50, training_negatives=7)
    )
    positives = pa.table(
        {
            "user_id": users["user_id"],
            "item_id": [
                row["item_ids"][0]
                for row in ListKernel(build).lists(users, "home").to_pylist()
            ],
        }
    )
    one = ListKernel(build, seed=1).candidates_for_training(users, positives)
    again = ListKernel(build, seed=1).candidates_for_training(
        pa.table(users), positives.take(np.arange(len(positives))[::-1])
    )
    other = ListKernel(build, seed=2).candidates_for_training(users, positives)
    assert one.equals(again)
    assert not one.equals(other)
    counts = one.group_by("group_id").aggregate([("label", "count"), ("label", "sum")])
    assert set(counts["label_count"].to_pylist()) == {8}
    assert set(counts["label_sum"].to_pylist()) == {1.0}


def test_no_vectors_and_no_neighbours_still_make_lists(tmp_path: Path) -> None:
    build = make_build(tmp_path, items_table(30), item_vectors=no_vectors(8))
    again = open_model(tmp_path, build.build_id)
    users = users_batch(
        [{"user_id": "u", "vector": [1.0] * 8, "recent_items": ["i0003"]}]
    )
    row = ListKernel(again).lists(users, "home").to_pylist()[0]
    assert len(row["item_ids"]) == 10
