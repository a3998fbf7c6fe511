"""`dbt build` on data whose answers are known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from feedloop.contracts import builds
from feedloop.contracts.lists import COLD_USER
from feedloop.errors import StepFailed
from loaders.iceberg import open_catalog
from tests.conftest import ITEMS, PEOPLE, Project
from tests.support import checkerboard
from tests.support.checkerboard import END, START

AS_OF = END.isoformat(sep=" ")
TABLES = ("tile_user_days", "tile_item_days", "tile_user_category_days")


def content(project: Project, table: str) -> list[tuple[object, ...]]:
    """The rows of a table without the bookkeeping of loads."""
    columns = [
        name
        for (name, *_) in project.query(f"describe {table}")
        if name != "changed_seq"
    ]
    return project.query(f"select {', '.join(columns)} from {table} order by all")


def test_everyone_has_a_list_led_by_what_they_left_out(built_project: Project) -> None:
    rows = built_project.query(
        "select user_id, item_ids, sources from rec_lists where surface = 'homepage'"
    )
    assert len(rows) == PEOPLE + 1
    for user_id, item_ids, sources in rows:
        if user_id == COLD_USER:
            assert item_ids
            continue
        person = int(user_id[1:])
        wanted = {
            f"i{number:03}"
            for number in range(person % 2, ITEMS, 2)
            if checkerboard.left_out(person, number)
        }
        ranked = [
            item
            for item, source in zip(item_ids, sources, strict=True)
            if source != "explore"
        ]
        assert set(ranked[: len(wanted)]) == wanted, user_id


def test_consumed_items_stay_away(built_project: Project) -> None:
    again = built_project.query(
        "select lists.user_id from rec_lists as lists "
        "inner join feat_user_history as history using (user_id, surface) "
        "where history.purpose = 'serving' "
        "and list_has_any(lists.item_ids, history.consumed_items)"
    )
    assert again == []


def test_the_build_is_published_whole(built_project: Project) -> None:
    settings = built_project.settings
    build_id = builds.newest_build(settings.builds_dir)
    assert build_id is not None
    for part in (builds.MODEL, builds.LISTS):
        _, manifest = builds.read_part(settings.builds_dir, build_id, part)
        assert manifest.as_of == END
    assert manifest.counts[builds.LISTS_FILE] == PEOPLE + 1
    assert manifest.counts[builds.USER_FEATURES_FILE] == PEOPLE


def test_features_do_not_see_what_comes_after_the_as_of(
    make_checkerboard: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = make_checkerboard(tmp_path)
    cut = START + timedelta(days=7, hours=5)
    project.build_features(cut.isoformat(sep=" "))
    events = [
        datetime.fromisoformat(row["occurred_at"])
        for row in checkerboard.events(PEOPLE, ITEMS)
    ]
    seen = sum(cut - timedelta(days=30) <= at <= cut for at in events)
    (popularity,) = project.query("select sum(item_popularity_30d) from feat_items")[0]
    click_weight = 3
    assert popularity == click_weight * seen


def test_building_twice_gives_the_same_content(
    make_checkerboard: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = make_checkerboard(tmp_path)
    project.dbt("build", as_of=AS_OF)
    tables = (*TABLES, "feat_users", "feat_items", "rec_lists", "rec_feature_log")
    before = {table: content(project, table) for table in tables}
    snapshots = project.query("select count(*) from snap_user_features")
    project.dbt("build", as_of=AS_OF)
    assert {table: content(project, table) for table in tables} == before
    assert project.query("select count(*) from snap_user_features") == snapshots


def test_a_late_event_rebuilds_its_day_and_nothing_else(
    make_checkerboard: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = make_checkerboard(tmp_path)
    project.build_features(AS_OF)
    seq = "select day, max(changed_seq) from tile_item_days group by day order by day"
    before = dict(project.query(seq))
    tile = (
        "select popularity from tile_item_days "
        "where item_id = 'i001' and day = date '2026-01-03'"
    )
    (popularity,) = (project.query(tile) or [(0,)])[0]

    late = checkerboard.event("late", 1, 1, START + timedelta(days=2, hours=1))
    checkerboard.send_events(project.log, project.settings, [late])
    project.load()
    project.build_features(AS_OF)

    after = dict(project.query(seq))
    changed = {day for day in after if after[day] != before.get(day)}
    assert {str(day) for day in changed} == {"2026-01-03"}
    assert project.query(tile) == [(popularity + 3,)]


def test_incremental_tiles_equal_tiles_from_scratch(
    make_checkerboard: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = make_checkerboard(tmp_path)
    project.build_features(AS_OF)
    more = [
        checkerboard.event(f"more{n}", n, n, START + timedelta(days=n, hours=2))
        for n in range(10)
    ]
    checkerboard.send_events(project.log, project.settings, more)
    project.load()
    project.build_features(AS_OF)
    incremental = {table: content(project, table) for table in TABLES}
    project.build_features(AS_OF, "--full-refresh")
    assert {table: content(project, table) for table in TABLES} == incremental


def test_what_is_appended_twice_by_hand_counts_once(
    make_checkerboard: Callable[[Path], Project], tmp_path: Path
) -> None:
    """An id of its own day only: one that comes again later is another event."""
    project = make_checkerboard(tmp_path)
    select = "build --exclude-resource-type test unit_test --select event_types"
    project.dbt(*select.split(), "stg_events", as_of=AS_OF)
    rows = content(project, "stg_events")
    catalog = open_catalog(project.settings)
    table = catalog.load_table((project.settings.raw_schema, "events"))
    events = table.scan().to_arrow().sort_by("event_id")
    later = pc.add(pc.max(events["load_seq"]), 1)
    repeated = events.set_column(
        events.column_names.index("load_seq"),
        events.schema.field("load_seq"),
        pa.repeat(later, len(events)),
    )
    reused = repeated.slice(0, 1)
    reused = reused.set_column(
        events.column_names.index("occurred_at"),
        events.schema.field("occurred_at"),
        pc.add(reused["occurred_at"], timedelta(days=40)),
    )
    table.append(pa.concat_tables([repeated, reused, reused]))
    project.dbt(*select.split(), "stg_events", as_of=AS_OF)
    again = content(project, "stg_events")
    (new,) = (row for row in again if row not in rows)
    assert len(again) == len(rows) + 1
    assert events["event_id"][0].as_py() in new


def test_a_run_refuses_to_go_back_and_says_where_to_go(
    built_project: Project,
) -> None:
    with pytest.raises(StepFailed, match="--target past"):
        built_project.dbt("build", "--select", "int_as_of", as_of="2026-01-02")


def test_the_past_runs_in_a_schema_of_its_own(
    make_checkerboard: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = make_checkerboard(tmp_path)
    project.build_features(AS_OF)
    past = "2026-01-05 00:00:00"
    project.build_features(past, "--target", "past")
    (newest,) = project.query("select max(as_of)::varchar from int_as_of")[0]
    assert newest.startswith("2026-01-15")
    (schema,) = project.query(
        "select distinct schema_name from information_schema.schemata "
        "where schema_name like '%_past_%'"
    )
    (count,) = project.query(
        f"select sum(item_popularity_30d) from {schema[0]}.feat_items"
    )[0]
    (all_time,) = project.query("select sum(item_popularity_30d) from feat_items")[0]
    assert 0 < count < all_time


def test_late_data_at_the_same_instant_replaces_what_was_known(
    make_checkerboard: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = make_checkerboard(tmp_path)
    selection = ("--select", "+snap_item_features")
    project.dbt("build", *selection, as_of=AS_OF)
    late = checkerboard.event("late", 1, 1, START + timedelta(days=2, hours=1))
    checkerboard.send_events(project.log, project.settings, [late])
    project.load()
    project.dbt("build", *selection, as_of=AS_OF)
    known = project.query(
        "select item_popularity_30d from snap_item_features where item_id = 'i001' "
        f"and dbt_valid_from <= timestamp '{AS_OF[:19]}' "
        f"and dbt_valid_to > timestamp '{AS_OF[:19]}'"
    )
    now = project.query(
        "select item_popularity_30d from feat_items where item_id = 'i001'"
    )
    assert known == now


def test_without_data_a_sentence_says_what_brings_some(new_project: Project) -> None:
    with pytest.raises(StepFailed, match="feedloop import movielens-100k"):
        new_project.dbt("build")


def test_stale_features_stop_the_build_before_the_lists(
    make_checkerboard: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = make_checkerboard(tmp_path)
    late = (END + timedelta(days=3)).isoformat(sep=" ")
    with pytest.raises(StepFailed, match="assert_features_are_fresh"):
        project.dbt("build", as_of=late)
    assert builds.newest_build(project.settings.builds_dir) is None


@pytest.mark.parametrize("case", ["nothing", "one_event", "uncatalogued", "heavy"])
def test_odd_data_builds_and_nobodys_list_is_empty(
    new_project: Project, case: str
) -> None:
    project = new_project
    items = {"nothing": 2, "one_event": 1, "uncatalogued": 2, "heavy": 60}[case]
    catalogue = [checkerboard.item(number) for number in range(items)]
    checkerboard.send_catalogue(
        project.log, project.settings, catalogue, [checkerboard.user(0)]
    )
    rows = {
        "nothing": [],
        "one_event": [checkerboard.event("e", 0, 0, START)],
        # an item that no catalogue knows, and none but that
        "uncatalogued": [checkerboard.event("e", 0, 999, START)],
        # a thousand events of one person, on everything there is
        "heavy": [
            checkerboard.event(f"e{n}", 0, n % items, START + timedelta(minutes=n))
            for n in range(1000)
        ],
    }[case]
    if rows:
        checkerboard.send_events(project.log, project.settings, rows)
    project.load()
    project.dbt("build")
    lists = project.query("select user_id, item_ids from rec_lists")
    people = {row["user_id"] for row in rows}
    assert {user for user, _ in lists} == people | {COLD_USER}
    active = {row["item_id"] for row in catalogue}
    for _, item_ids in lists:
        assert item_ids
        assert set(item_ids) <= active
