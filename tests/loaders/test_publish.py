"""A build's lists are appended once, however often it is tried."""

from __future__ import annotations

import multiprocessing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedloop.contracts import builds
from feedloop.contracts.lists import (
    FEATURE_LOG_ITEMS_SCHEMA,
    FEATURE_LOG_SCHEMA,
    LISTS_SCHEMA,
)
from feedloop.errors import BuildInvalid
from feedloop.settings import Settings, from_environment
from loaders.iceberg import open_catalog, open_table
from loaders.publish import PublishReport, append_build

AT = datetime(2026, 1, 8, tzinfo=UTC)
USERS, ITEMS = 500, 30
NOTHING = PublishReport(lists=0, feature_log=0, feature_log_items=0, expired_files=0)


def write_build(settings: Settings, at: datetime = AT) -> str:
    build_id = f"m@{at:%Y%m%dT%H%M%S%f}Z"
    manifest = builds.Manifest(
        format=builds.FORMAT,
        build_id=build_id,
        model_version="m",
        as_of=at,
        surfaces=["homepage"],
        feature_names=["x"],
        categories=[],
        counts={},
    )
    names = [f"{build_id}-{number}" for number in range(USERS)]
    lists = [
        {
            "rec_id": name,
            "user_id": name,
            "surface": "homepage",
            "item_ids": ["a"],
            "model_version": "m",
            "build_id": build_id,
            "generated_at": at,
            "expires_at": at,
        }
        for name in names
    ]
    made = {"build_id": build_id, "generated_at": at}
    log = [made | {"rec_id": name} for name in names]
    items = [made | {"item_id": f"i{number}"} for number in range(ITEMS)]
    with builds.write_part(settings.builds_dir, builds.LISTS, manifest) as folder:
        for file, rows, schema in (
            (builds.LISTS_FILE, lists, LISTS_SCHEMA),
            (builds.FEATURE_LOG_FILE, log, FEATURE_LOG_SCHEMA),
            (builds.FEATURE_LOG_ITEMS_FILE, items, FEATURE_LOG_ITEMS_SCHEMA),
        ):
            pq.write_table(pa.Table.from_pylist(rows, schema), folder / file)
    return build_id


def stored(settings: Settings, name: str) -> list[str]:
    table = open_table(open_catalog(settings), settings, name)
    return sorted(table.scan().to_arrow()["rec_id"].to_pylist())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return from_environment({}, home=str(tmp_path), namespace="t1")


def test_a_build_is_appended_once(settings: Settings) -> None:
    first = write_build(settings)
    once = append_build(settings, settings.builds_dir, first)
    assert once == PublishReport(USERS, USERS, ITEMS, expired_files=0)
    again = append_build(settings, settings.builds_dir, first)
    assert again == NOTHING
    # the same day's next build is another one
    second = write_build(settings, AT.replace(hour=12))
    append_build(settings, settings.builds_dir, second)
    for name in ("lists", "feature_log"):
        rows = stored(settings, name)
        assert len(rows) == len(set(rows)) == 2 * USERS


def test_what_a_killed_run_left_out_is_appended(settings: Settings) -> None:
    build_id = write_build(settings)
    append_build(settings, settings.builds_dir, build_id)
    catalog = open_catalog(settings)
    catalog.drop_table((settings.raw_schema, "feature_log"))
    report = append_build(settings, settings.builds_dir, build_id)
    assert report == PublishReport(0, USERS, 0, expired_files=0)


def days_of(settings: Settings, name: str) -> set[datetime]:
    table = open_table(open_catalog(settings), settings, name)
    return set(table.scan().to_arrow()["generated_at"].to_pylist())


def test_the_log_lets_go_of_days_that_are_too_old(settings: Settings) -> None:
    settings = msgspec.structs.replace(settings, feature_log_days=2)
    builds_at = [AT + timedelta(hours=hours) for hours in (0, 23, 24, 60)]
    for at in builds_at:
        append_build(settings, settings.builds_dir, write_build(settings, at))
    last = builds_at[-1]
    # two days before the last build's own, from midnight on
    for name in ("feature_log", "feature_log_items"):
        assert days_of(settings, name) == set(builds_at)
    newer = write_build(settings, last + timedelta(hours=12))
    report = append_build(settings, settings.builds_dir, newer)
    assert report == PublishReport(USERS, USERS, ITEMS, expired_files=4)
    for name in ("feature_log", "feature_log_items"):
        assert days_of(settings, name) == {*builds_at[2:], last + timedelta(hours=12)}
    assert len(days_of(settings, "lists")) == 5
    # a build of the past takes nothing that is newer than itself
    past = write_build(settings, AT + timedelta(hours=1))
    append_build(settings, settings.builds_dir, past)
    assert days_of(settings, "feature_log") > {*builds_at[2:]}
    assert append_build(settings, settings.builds_dir, newer).expired_files == 2


def test_two_publishers_at_once_append_once(settings: Settings) -> None:
    build_id = write_build(settings)
    append_build(
        settings, settings.builds_dir, write_build(settings, AT.replace(day=7))
    )
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(
            target=append_build, args=(settings, settings.builds_dir, build_id)
        )
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert {process.exitcode for process in processes} == {0}
    rows = stored(settings, "lists")
    assert len(rows) == len(set(rows)) == 2 * USERS


def test_a_torn_build_is_refused(settings: Settings) -> None:
    build_id = write_build(settings)
    path = settings.builds_dir / build_id / builds.LISTS / builds.LISTS_FILE
    path.write_bytes(b"")
    with pytest.raises(BuildInvalid):
        append_build(settings, settings.builds_dir, build_id)
