"""A build that breaks its contract is refused before any of it is served."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from exporters.build_reader import BATCH_ROWS, BuildReader
from feedloop.contracts import builds
from feedloop.contracts.lists import (
    COLD_USER,
    FEATURE_LOG_ITEMS_SCHEMA,
    FEATURE_LOG_SCHEMA,
    LISTS_SCHEMA,
    BuildId,
)
from feedloop.contracts.seeds import read_features, read_surfaces
from feedloop.errors import BuildInvalid
from feedloop.settings import Settings
from recommender import publication
from tests.exporters.builder import (
    features_table,
    list_row,
    score,
    write_build,
    write_tables,
)
from tests.exporters.conftest import AS_OF

BUILD = str(BuildId("v1", AS_OF))
Tables = dict[str, pa.Table]


def open_build(settings: Settings, build_id: str) -> BuildReader:
    return BuildReader(
        settings.builds_dir,
        build_id,
        read_surfaces(settings.seeds_dir),
        read_features(settings.seeds_dir),
    )


def read_all(build: BuildReader) -> None:
    list(build.lists(build.item_ids()))
    list(build.features("user", build.feature_layout("user")))
    list(build.features("item", build.feature_layout("item")))


def rows(**changes: Any) -> list[dict[str, Any]]:
    """A user's list, changed, and a cold-start list that is right."""
    mine = list_row(BUILD, "u1", "homepage", ["a", "b"], AS_OF)
    return [mine | changes, list_row(BUILD, COLD_USER, "homepage", ["c"], AS_OF)]


def tables(lists: list[dict[str, Any]]) -> Tables:
    return {
        builds.LISTS_FILE: pa.Table.from_pylist(lists, LISTS_SCHEMA),
        builds.FEATURE_LOG_FILE: FEATURE_LOG_SCHEMA.empty_table(),
        builds.FEATURE_LOG_ITEMS_FILE: FEATURE_LOG_ITEMS_SCHEMA.empty_table(),
        builds.USER_FEATURES_FILE: features_table("user", [{"user_id": "u1"}], AS_OF),
        builds.ITEM_FEATURES_FILE: features_table("item", [{"item_id": "a"}], AS_OF),
    }


def test_lists_come_out_as_ordinals_in_byte_order(settings: Settings) -> None:
    lists = {"u1": ["b", "é", "a"], "u2": [], "u3": ["a"]}
    build = open_build(settings, write_build(settings, AS_OF, lists, cold=["Z"]))
    items = build.item_ids()
    assert items.to_pylist() == ["Z", "a", "b", "é"]
    cold, others = sorted(build.lists(items), key=lambda batch: not batch.cold)
    assert (cold.user_ids, cold.ordinals.tolist()) == ([b"~cold"], [0])
    assert others.user_ids == [b"u1", b"u2", b"u3"]
    assert others.counts.tolist() == [3, 0, 1]
    assert others.ordinals.tolist() == [2, 3, 1, 1]
    assert others.scores.tolist() == [score(0), score(1), score(2), score(0)]


@pytest.mark.parametrize("row_group", [None, 1000])
def test_ordinals_hold_over_batches(settings: Settings, row_group: int | None) -> None:
    """Each row group has a dictionary of its own; the build has one."""
    lists = {f"u{n}": [f"i{n % 7}", f"i{n % 11}"] for n in range(BATCH_ROWS + 10)}
    build_id = write_build(settings, AS_OF, lists, row_group=row_group)
    build = open_build(settings, build_id)
    items = build.item_ids()
    names = items.to_pylist()
    assert names == sorted(names)
    found = {}
    for batch in build.lists(items):
        if not batch.cold:
            pairs = batch.ordinals.reshape(-1, 2).tolist()
            for user_id, pair in zip(batch.user_ids, pairs, strict=True):
                found[user_id.decode()] = [names[ordinal] for ordinal in pair]
    assert found == lists


def test_what_is_published_batch_by_batch_is_read_whole(settings: Settings) -> None:
    """As the warehouse publishes it: every batch becomes a row group."""
    lists = {f"u{n:03}": [f"i{n}", f"i{n + 1}"] for n in range(90)}
    written = tables(
        [
            list_row(BUILD, user_id, "homepage", items, AS_OF)
            for user_id, items in {**lists, COLD_USER: ["c"]}.items()
        ]
    )
    users = [{"user_id": user_id} for user_id in lists]
    written[builds.USER_FEATURES_FILE] = features_table("user", users, AS_OF)
    surfaces = read_surfaces(settings.seeds_dir)
    publication.publish(
        settings.builds_dir,
        {"build_id": BUILD, "model_version": "v1", "feature_names": []},
        surfaces,
        pa.table({"category": ["news"], "category_place": [0]}),
        {
            name: pa.RecordBatchReader.from_batches(
                table.schema, table.to_batches(max_chunksize=20)
            )
            for name, table in written.items()
        },
    )
    build = open_build(settings, BUILD)
    items = build.item_ids()
    names = items.to_pylist()
    found = {}
    for batch in build.lists(items):
        ends = np.cumsum(batch.counts)
        for user_id, end, count in zip(batch.user_ids, ends, batch.counts, strict=True):
            ordinals = batch.ordinals[end - count : end]
            found[user_id.decode()] = [names[ordinal] for ordinal in ordinals]
    assert found == {**lists, COLD_USER: ["c"]}
    layout = build.feature_layout("user")
    read = [user for part in build.features("user", layout) for user in part.entity_ids]
    assert sorted(read) == [user_id.encode() for user_id in lists]


def test_features_in_the_registrys_order_with_defaults(settings: Settings) -> None:
    users = [
        {"user_id": "u1", "user_ctr_30d": 0.25, "user_category_affinity": [0.5, 1.0]},
        {"user_id": "u2", "user_ctr_30d": float("nan"), "user_events_7d": 3},
    ]
    build = open_build(settings, write_build(settings, AS_OF, {}, users=users))
    layout = build.feature_layout("user")
    registry = read_features(settings.seeds_dir).values()
    expected = [f.feature_name for f in registry if f.entity_type == "user"]
    assert [feature.name for feature in layout.features] == expected
    (batch,) = build.features("user", layout)
    values = np.zeros((2, layout.count), np.float32)
    for at, feature in enumerate(f for f in registry if f.entity_type == "user"):
        values[:, at] = feature.default_value
    values[0, expected.index("user_ctr_30d")] = 0.25
    values[0, -2:] = (0.5, 1.0)
    values[1, expected.index("user_events_7d")] = 3
    assert batch.entity_ids == [b"u1", b"u2"]
    np.testing.assert_array_equal(batch.values, values)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scores": [1.0]}, "parallel"),
        ({"scores": [1.0, None]}, "inside a list"),
        ({"item_ids": ["a", None]}, "inside a list"),
        ({"item_ids": None}, "empty item_ids"),
        ({"scores": [1.0, float("nan")]}, "finite"),
        ({"scores": [float("inf"), 1.0]}, "finite"),
        ({"rec_id": "rec_short"}, "rec_id"),
        ({"rec_id": "rec_" + "G" * 24}, "rec_id"),
        ({"surface": "cellar"}, "cellar"),
        ({"build_id": str(BuildId("v2", AS_OF))}, "another build"),
    ],
)
def test_a_list_that_breaks_its_contract_is_refused(
    settings: Settings, changes: dict[str, Any], reason: str
) -> None:
    write_tables(settings, BUILD, tables(rows(**changes)))
    build = open_build(settings, BUILD)
    with pytest.raises(BuildInvalid, match=reason):
        read_all(build)


def without(name: str, column: str) -> Callable[[Tables], Tables]:
    return lambda given: given | {name: given[name].drop_columns([column])}


def users(**values: Any) -> Callable[[Tables], Tables]:
    found = [{"user_id": "u1"}, {"user_id": "u2"} | values]
    table = features_table("user", found, AS_OF)
    return lambda given: given | {builds.USER_FEATURES_FILE: table}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without(builds.LISTS_FILE, "scores"), "no column scores"),
        (without(builds.USER_FEATURES_FILE, "user_ctr_30d"), "no column user_ctr_30d"),
        (without(builds.ITEM_FEATURES_FILE, "item_id"), "no column item_id"),
        (users(user_ctr_30d=float("inf")), "not finite"),
        (users(user_id=None), "empty user_id"),
        (users(as_of=None), "empty as_of"),
    ],
)
def test_a_file_that_breaks_its_contract_is_refused(
    settings: Settings, change: Callable[[Tables], Tables], reason: str
) -> None:
    write_tables(settings, BUILD, change(tables(rows())))
    build = open_build(settings, BUILD)
    with pytest.raises(BuildInvalid, match=reason):
        read_all(build)


def test_vectors_of_different_lengths_are_refused(settings: Settings) -> None:
    found = [
        {"user_id": "u1", "user_category_affinity": [1.0]},
        {"user_id": "u2", "user_category_affinity": [1.0, 2.0]},
    ]
    build = open_build(settings, write_build(settings, AS_OF, {}, users=found))
    with pytest.raises(BuildInvalid, match="different lengths"):
        build.feature_layout("user")


def test_a_missing_file_is_refused(settings: Settings) -> None:
    given = tables(rows())
    del given[builds.ITEM_FEATURES_FILE]
    write_tables(settings, BUILD, given)
    with pytest.raises(BuildInvalid, match=builds.ITEM_FEATURES_FILE):
        open_build(settings, BUILD)


def test_a_file_that_is_no_parquet_is_refused(settings: Settings) -> None:
    manifest = builds.Manifest(
        format=builds.FORMAT,
        build_id=BUILD,
        model_version="v1",
        as_of=AS_OF,
        surfaces=["homepage"],
        feature_names=[],
        categories=[],
        counts={},
    )
    with builds.write_part(settings.builds_dir, builds.LISTS, manifest) as folder:
        for name in tables(rows()):
            (folder / name).write_bytes(b"not Parquet")
    build = open_build(settings, BUILD)
    with pytest.raises(BuildInvalid, match="can't be read"):
        read_all(build)


def test_a_renamed_build_is_refused(settings: Settings) -> None:
    build_id = write_build(settings, AS_OF, {})
    other = str(BuildId("v1", AS_OF + timedelta(days=1)))
    (settings.builds_dir / build_id).rename(settings.builds_dir / other)
    with pytest.raises(BuildInvalid, match=build_id):
        open_build(settings, other)


@pytest.mark.parametrize(
    ("surfaces", "reason"), [([], "no surface"), (["cellar"], "cellar")]
)
def test_a_build_of_other_surfaces_is_refused(
    settings: Settings, surfaces: list[str], reason: str
) -> None:
    write_tables(settings, BUILD, tables(rows()), surfaces)
    with pytest.raises(BuildInvalid, match=reason):
        open_build(settings, BUILD)
