"""Compaction, expiry and orphan removal: the same rows, fewer files, and the
offsets still there, whoever commits meanwhile."""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io import pyarrow as iceberg_arrow
from pyiceberg.table import Table
from pyiceberg.table.update.snapshot import (
    ExpireSnapshots,
    _ManifestMergeManager,
    _OverwriteFiles,
    _SnapshotProducer,
)

from feedloop.clock import FixedClock
from feedloop.contracts import tables
from feedloop.contracts.log import EventLog, Message
from feedloop.contracts.tables import RAW_TABLES
from feedloop.errors import Fenced, MaintenanceFailed
from feedloop.settings import Settings
from loaders import compaction as compaction_module
from loaders.compaction import Compacted, CompactionPolicy, compact, due
from loaders.duckdb_plugin import load_extensions
from loaders.expiry import expirable, expire
from loaders.iceberg import (
    FencedAppend,
    OffsetsKept,
    committed,
    ensure_tables,
    open_catalog,
    open_table,
)
from loaders.loader import Loader, load_all
from loaders.log import create_topics, open_log
from loaders.maintenance import maintain
from loaders.orphans import Removed, remove_orphans
from tests.loaders.conftest import NOW
from tests.loaders.sending import event, event_ids, rows, send

ANY = CompactionPolicy(64 << 20, min_files=2)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ALL_AGES = timedelta(0)


def later(hours: float) -> datetime:
    """The system's clock: it dates commits and files."""
    return datetime.now(UTC) + timedelta(hours=hours)


@pytest.fixture
def log(settings: Settings, clock: FixedClock) -> Iterator[EventLog]:
    with closing(open_log(settings, clock)) as log:
        create_topics(log, settings)
        yield log


@pytest.fixture
def catalog(settings: Settings) -> Catalog:
    catalog = open_catalog(settings)
    ensure_tables(catalog, settings)
    return catalog


@pytest.fixture
def opened(catalog: Catalog, settings: Settings) -> Callable[[], Table]:
    return lambda: open_table(catalog, settings, "events")


@pytest.fixture
def loader(settings: Settings, catalog: Catalog, log: EventLog) -> Loader:
    return Loader(settings, catalog, log, "events")


@pytest.fixture
def loaded(loader: Loader, log: EventLog, settings: Settings) -> Loader:
    """Six commits of three events, on two days, each event later by a minute,
    the batches in reverse."""
    chance = random.Random(5)
    for batch in reversed(range(6)):
        day = timedelta(days=batch % 2)
        numbers = range(batch * 3, batch * 3 + 3)
        # what can't be packed, so that three rows are some kilobytes
        sent = [event(n, context={"x": chance.randbytes(2000).hex()}) for n in numbers]
        send(
            log, settings, *(e | {"occurred_at": e["occurred_at"] - day} for e in sent)
        )
        loader.load_once()
    return loader


def files(table: Table) -> list[str]:
    return sorted(task.file.file_path for task in table.scan().plan_files())


def on_disk(table: Table) -> set[str]:
    folder = Path(table.location().removeprefix("file://"))
    return {path.as_uri() for path in folder.rglob("*") if path.is_file()}


def newest(table: Table, name: str = "events") -> list[dict[str, Any]]:
    return sorted(table.scan().to_arrow().to_pylist(), key=lambda row: row["event_id"])


# --- compaction --------------------------------------------------------------


def test_the_same_rows_in_one_file_a_day(
    loaded: Loader, opened: Callable[[], Table]
) -> None:
    before = opened()
    positions = committed(before.metadata)
    assert len(files(before)) == 6
    done = compact(opened, RAW_TABLES["events"].sort_by, ANY)
    after = opened()
    assert (done.files_before, done.files_after) == (6, 2)
    assert done.bytes_after < done.bytes_before
    assert newest(after) == newest(before)
    assert len(files(after)) == 2
    head = after.current_snapshot()
    assert head is not None and head.summary is not None
    assert committed(after.metadata) == positions
    assert "feedloop.loads" in head.summary.additional_properties
    assert head.summary["total-records"] == "18"
    assert head.summary["total-data-files"] == "2"


def test_what_is_compact_is_left_alone(
    loaded: Loader, opened: Callable[[], Table]
) -> None:
    sort_by = RAW_TABLES["events"].sort_by
    assert len(due(opened(), CompactionPolicy(64 << 20, min_files=4))) == 0
    compact(opened, sort_by, ANY)
    location = opened().metadata_location
    assert compact(opened, sort_by, ANY) == Compacted()
    assert opened().metadata_location == location


def test_rows_are_sorted_so_that_ranges_prune(
    loaded: Loader, opened: Callable[[], Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction_module, "ROW_GROUP_ROWS", 2)
    monkeypatch.setattr(compaction_module, "SORTED_ROWS", 1)
    monkeypatch.setattr(CompactionPolicy, "is_small", lambda *_: True)
    # a row has about two kilobytes
    compact(opened, RAW_TABLES["events"].sort_by, CompactionPolicy(26_000, 2))
    table = opened()
    ranges = []
    for path in files(table):
        part = pq.read_table(path.removeprefix("file://"))
        at, names = part["occurred_at"].to_pylist(), part["event_id"].to_pylist()
        keys = list(zip(at, names, strict=True))
        assert keys == sorted(keys)
        ranges.append((at[0], at[-1], len(at)))
    ranges.sort()
    assert len(ranges) >= 4  # of two days
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))
    first, last, count = ranges[2]
    wanted = f"occurred_at >= '{first.isoformat()}' "
    scan = table.scan(wanted + f"and occurred_at <= '{last.isoformat()}'")
    assert len(list(scan.plan_files())) == 1
    assert len(scan.to_arrow()) == count


def test_every_raw_table_is_compacted(
    settings: Settings, clock: FixedClock, log: EventLog, catalog: Catalog
) -> None:
    for number in range(5):
        item = {"item_id": f"i{number}", "category": "c", "published_at": NOW}
        user = {"user_id": f"u{number}", "created_at": NOW}
        log.append("t1.items", [Message("i", msgspec.json.encode(item), NOW)])
        log.append("t1.users", [Message("u", msgspec.json.encode(user), NOW)])
        log.append("t1.events", [Message("k", b"\xff bad", NOW)])
        load_all(settings, clock)
    for name in ("lists", "feature_log"):
        schema = RAW_TABLES[name].schema
        for number in range(5):
            row = {
                field.name: {
                    "string": f"x{number}",
                    "timestamp[us, tz=UTC]": NOW,
                }.get(str(field.type), [])
                for field in schema
            }
            if name == "feature_log":
                row["feature_values"] = [0.5, float(number)]
            pending = FencedAppend(open_table(catalog, settings, name))
            pending.add(pa.Table.from_pylist([row], schema=schema))
            pending.commit(OffsetsKept())
    before = {name: rows(settings, name) for name in RAW_TABLES}
    reports = {one.table: one for one in maintain(settings, later(0))}
    assert list(reports) == list(RAW_TABLES)
    for name in RAW_TABLES:
        moved = reports[name].compacted
        expected = (0, 0) if name in ("events", "accepted_losses") else (5, 1)
        assert (moved.files_before, moved.files_after) == expected, name
        key = str
        assert sorted(map(key, rows(settings, name))) == sorted(map(key, before[name]))
    stored = [row["item_id"] for row in rows(settings, "items")]
    assert stored == sorted(stored)
    # the loader goes on from where it was
    assert load_all(settings, clock) == []


def test_files_from_before_a_column_are_compacted(
    loaded: Loader, opened: Callable[[], Table]
) -> None:
    with opened().update_schema() as update:
        update.union_by_name(pa.schema([pa.field("favourite", pa.string())]))
    before = newest(opened())
    compact(opened, RAW_TABLES["events"].sort_by, ANY)
    assert newest(opened()) == before
    assert before[0]["favourite"] is None


def test_an_append_in_between_survives(
    loaded: Loader,
    opened: Callable[[], Table],
    log: EventLog,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = compaction_module._exchange
    reports = []

    def exchange(table: Table, pending: Any) -> Compacted:
        send(log, settings, event(100), event(101))
        reports.append(loaded.load_once())
        return real(table, pending)

    monkeypatch.setattr(compaction_module, "_exchange", exchange)
    compact(opened, RAW_TABLES["events"].sort_by, ANY)
    (report,) = reports
    assert report.rows == 2
    assert event_ids(settings) == sorted(f"e{n}" for n in [*range(18), 100, 101])
    (position,) = committed(opened().metadata).values()
    assert position.offsets == report.offsets_to  # those of its head, not of its base
    assert loaded.load_once().load_seq is None


def test_a_loader_meets_a_compaction(
    loaded: Loader,
    opened: Callable[[], Table],
    log: EventLog,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the loader's read and its commit: the fence still passes."""
    send(log, settings, event(100))
    real = FencedAppend.commit
    once = iter([True])

    def commit(self: FencedAppend, fence: Any) -> None:
        if next(once, False):
            done = compact(opened, RAW_TABLES["events"].sort_by, ANY)
            assert done.files_before == 6
        real(self, fence)

    monkeypatch.setattr(FencedAppend, "commit", commit)
    assert loaded.load_once().rows == 1
    assert event_ids(settings) == sorted(f"e{n}" for n in [*range(18), 100])
    assert len(files(opened())) == 3


def test_of_two_compactions_one_gives_way(
    loaded: Loader, opened: Callable[[], Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = newest(opened())
    sort_by = RAW_TABLES["events"].sort_by
    real = compaction_module._exchange
    others = []

    def exchange(table: Table, pending: Any) -> Compacted:
        if not others:
            others.append(None)
            others[0] = compact(opened, sort_by, ANY)
        return real(table, pending)

    monkeypatch.setattr(compaction_module, "_exchange", exchange)
    assert compact(opened, sort_by, ANY) == Compacted()
    assert others[0].files_before == 6
    assert newest(opened()) == before


def test_a_file_that_was_deleted_meanwhile_does_not_come_back(
    loaded: Loader, opened: Callable[[], Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = compaction_module._exchange
    once = iter([True])

    def exchange(table: Table, pending: Any) -> Compacted:
        if next(once, False):
            opened().delete("event_id in ('e0', 'e1', 'e2')")
        return real(table, pending)

    monkeypatch.setattr(compaction_module, "_exchange", exchange)
    compact(opened, RAW_TABLES["events"].sort_by, ANY)
    left = {row["event_id"] for row in newest(opened())}
    assert left == {f"e{n}" for n in range(3, 18)}


class Killed(BaseException):
    pass


def test_killed_before_the_exchange(
    loaded: Loader, opened: Callable[[], Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = newest(opened())

    def dying(*_: Any) -> Any:
        raise Killed

    monkeypatch.setattr(compaction_module, "_exchange", dying)
    with pytest.raises(Killed):
        compact(opened, RAW_TABLES["events"].sort_by, ANY)
    monkeypatch.undo()
    assert newest(opened()) == before
    left = on_disk(opened()) - set(files(opened()))
    assert sum("compacted" in path for path in left) == 2
    assert compact(opened, RAW_TABLES["events"].sort_by, ANY).files_after == 2
    assert newest(opened()) == before
    remove_orphans(opened, ALL_AGES, ALL_AGES, later(1))
    left = on_disk(opened())
    assert sum("compacted" in path for path in left) == 2


def test_a_commit_that_never_comes_through_gives_way(
    loaded: Loader, opened: Callable[[], Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = newest(opened())

    def never(*_: Any) -> Any:
        raise CommitFailedException("409")

    def hopeless() -> Table:
        table = opened()
        table.metadata.properties["commit.retry.num-retries"] = "0"
        monkeypatch.setattr(table.catalog, "commit_table", never)
        return table

    with pytest.raises(Fenced, match="run it again"):
        compact(hopeless, RAW_TABLES["events"].sort_by, ANY)
    monkeypatch.undo()
    assert newest(opened()) == before


def test_a_disk_that_is_full(
    loaded: Loader, opened: Callable[[], Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = newest(opened())

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compaction_module.pq, "ParquetWriter", full)
    with pytest.raises(MaintenanceFailed, match="No space left"):
        compact(opened, RAW_TABLES["events"].sort_by, ANY)
    monkeypatch.undo()
    assert newest(opened()) == before


def test_it_stops_between_two_groups_of_files(
    loaded: Loader, opened: Callable[[], Table]
) -> None:
    before = newest(opened())
    answers = iter([True, False])
    done = compact(
        opened, RAW_TABLES["events"].sort_by, ANY, lambda: next(answers, False)
    )
    assert (done.files_before, done.files_after) == (3, 1)
    assert newest(opened()) == before
    assert len(files(opened())) == 4


# --- expiry ------------------------------------------------------------------


def ids(table: Table) -> list[int]:
    return [snapshot.snapshot_id for snapshot in table.snapshots()]


def test_a_snapshot_lives_on_after_the_next_commit(
    loaded: Loader, opened: Callable[[], Table]
) -> None:
    before = opened()
    hour = timedelta(hours=1)
    assert expire(opened, hour, 1, later(0.9)) == 0
    assert expire(opened, hour, 3, later(1.1)) == 3
    assert ids(opened()) == ids(before)[-3:]
    assert expire(opened, hour, 1, later(1.1)) == 2
    table = opened()
    assert ids(table) == ids(before)[-1:]
    assert committed(table.metadata) == committed(before.metadata)
    assert newest(table) == newest(before)
    assert loaded.load_once().load_seq is None


def test_a_head_that_was_old_is_readable_for_as_long(
    loaded: Loader, opened: Callable[[], Table], log: EventLog, settings: Settings
) -> None:
    """Not its own age counts: until a moment ago it was what readers got."""
    metadata = opened().metadata
    head = metadata.snapshots[-1]
    long_ago = [
        one.model_copy(update={"timestamp_ms": one.timestamp_ms - 10**9})
        for one in metadata.snapshots
    ]
    newer = head.model_copy(
        update={"snapshot_id": 1, "parent_snapshot_id": head.snapshot_id}
    )
    ref = metadata.refs["main"].model_copy(update={"snapshot_id": 1})
    aged = metadata.model_copy(
        update={
            "snapshots": [*long_ago, newer],
            "current_snapshot_id": 1,
            "refs": {"main": ref},
        }
    )
    found = expirable(aged, timedelta(hours=1), 1, later(0.5))
    # the one before it was superseded when that old head came, long ago
    assert found == [snapshot.snapshot_id for snapshot in metadata.snapshots[:-1]]


def test_branches_and_tags_keep_theirs(
    loaded: Loader, opened: Callable[[], Table]
) -> None:
    table = opened()
    old = ids(table)
    table.manage_snapshots().create_tag(old[1], "audit").commit()
    opened().manage_snapshots().create_branch(old[3], "trial").commit()
    expire(opened, ALL_AGES, 1, later(1))
    assert ids(opened()) == [old[1], old[3], old[-1]]


def test_the_snapshot_with_the_offsets_is_kept(
    loaded: Loader, opened: Callable[[], Table]
) -> None:
    """Also where a stranger, Spark say, appended without them."""
    positions = committed(opened().metadata)
    stranger = opened()
    row = stranger.scan(limit=1).to_arrow()
    stranger.append(row)
    stranger.append(row)
    expire(opened, ALL_AGES, 1, later(1))
    assert len(ids(opened())) == 3
    assert committed(opened().metadata) == positions


def test_what_belongs_to_no_branch_goes_by_its_age(
    loaded: Loader, opened: Callable[[], Table]
) -> None:
    table = opened()
    old = ids(table)
    table.manage_snapshots().rollback_to_snapshot(old[-2]).commit()
    assert expire(opened, timedelta(hours=1), 20, later(0.5)) == 0
    assert expire(opened, timedelta(hours=1), 20, later(1.5)) == 1
    assert ids(opened()) == old[:-1]


def test_a_rollback_in_between_keeps_its_head(
    loaded: Loader, opened: Callable[[], Table]
) -> None:
    old = ids(opened())
    once = iter([True])

    def looked_at() -> Table:
        table = opened()
        if next(once, False):
            opened().manage_snapshots().rollback_to_snapshot(old[2]).commit()
        return table

    expire(looked_at, ALL_AGES, 1, later(1))
    head = opened().current_snapshot()
    assert head is not None and head.snapshot_id == old[2]
    assert len(newest(opened())) == 9


def test_commits_do_not_grow_with_their_number(
    opened: Callable[[], Table], loader: Loader, log: EventLog, settings: Settings
) -> None:
    """What a commit reads and writes: snapshots, manifests, metadata files."""
    small = msgspec.structs.replace(
        settings, snapshot_age_s=0, orphan_age_s=0, snapshots_kept=2
    )
    seen = []
    for batch in range(40):
        send(log, settings, event(batch))
        loader.load_once()
        if batch % 8 == 7:
            list(maintain(small, later(1)))
            table = opened()
            head = table.current_snapshot()
            assert head is not None
            seen.append(
                (
                    len(table.snapshots()),
                    len(head.manifests(table.io)),
                    len(files(table)),
                    len(on_disk(table)),
                )
            )
    # metadata files that the metadata itself lists are there until it drops them
    assert seen[-1] == seen[-2]
    assert seen[-1][:3] == (3, 1, 1)
    assert event_ids(settings) == sorted(f"e{n}" for n in range(40))


# --- orphans -----------------------------------------------------------------


def test_files_that_no_snapshot_has(
    loaded: Loader, opened: Callable[[], Table]
) -> None:
    before = newest(opened())
    compact(opened, RAW_TABLES["events"].sort_by, ANY)
    remove_orphans(opened, ALL_AGES, ALL_AGES, later(1))
    assert newest(opened()) == before
    assert sum(path.endswith(".parquet") for path in on_disk(opened())) == 6 + 2
    expire(opened, ALL_AGES, 1, later(1))
    day = timedelta(days=1)
    assert remove_orphans(opened, day, day, later(23)) == Removed()
    on_disk_before = on_disk(opened())
    done = remove_orphans(opened, day, day, later(25))
    table = opened()
    gone = on_disk_before - on_disk(table)
    assert done.files == len(gone) > 6 + 6  # data files, manifest lists, …
    assert sum(path.endswith(".parquet") for path in gone) == 6
    assert not gone & set(files(table))
    assert newest(table) == before
    assert remove_orphans(opened, day, day, later(25)) == Removed()
    assert loaded.load_once().load_seq is None


def test_a_commit_under_way_keeps_its_files(
    loaded: Loader, opened: Callable[[], Table]
) -> None:
    table = opened()
    pending = FencedAppend(table)
    row = table.scan(limit=1).to_arrow().cast(tables.EVENTS_SCHEMA)
    pending.add(row)
    hour = timedelta(hours=1)
    assert remove_orphans(opened, hour, hour, later(0.9)).files == 0
    pending.commit(OffsetsKept())
    assert len(newest(opened())) == 19


def test_a_file_committed_while_the_others_are_listed(
    loaded: Loader, opened: Callable[[], Table]
) -> None:
    """It is old, was no snapshot's when the files were listed, and is now."""
    table = opened()
    pending = FencedAppend(table)
    pending.add(table.scan(limit=1).to_arrow().cast(tables.EVENTS_SCHEMA))
    calls = iter(range(10))

    def looked_at() -> Table:
        if next(calls) == 1:
            pending.commit(OffsetsKept())
        return opened()

    remove_orphans(looked_at, ALL_AGES, ALL_AGES, later(1))
    assert len(newest(opened())) == 19


def test_a_reader_goes_on_with_what_it_began_with(
    loaded: Loader,
    opened: Callable[[], Table],
    log: EventLog,
    settings: Settings,
) -> None:
    """As dbt does: it holds a metadata file for as long as a build takes."""
    location = opened().metadata_location
    hasty = msgspec.structs.replace(settings, snapshot_age_s=3600, orphan_age_s=3600)
    for number in range(100, 122):  # more than the metadata lists
        send(log, settings, event(number))
        loaded.load_once()
    list(maintain(hasty, later(0.9)))
    with duckdb.connect() as connection:
        load_extensions(connection)
        query = f"select count(*) from iceberg_scan('{location}')"
        assert connection.execute(query).fetchone() == (18,)
        list(maintain(hasty, later(1.1)))
        with pytest.raises(duckdb.Error):
            connection.execute(query)
    assert len(event_ids(settings)) == 40


def test_a_table_that_lost_a_file_loses_no_other(
    loaded: Loader, opened: Callable[[], Table]
) -> None:
    table = opened()
    head = table.current_snapshot()
    assert head is not None
    Path(head.manifest_list.removeprefix("file://")).unlink()
    orphan = Path(table.location().removeprefix("file://")) / "data" / "orphan.parquet"
    orphan.write_bytes(b"x")
    with pytest.raises(MaintenanceFailed, match="misses a file of its own"):
        remove_orphans(opened, ALL_AGES, ALL_AGES, later(1))
    assert orphan.exists()


# --- the private API ---------------------------------------------------------


def test_the_private_api_is_the_one_that_was_measured() -> None:
    def source(function: Callable[..., Any]) -> str:
        return inspect.getsource(function)

    # every attempt looks for the old files on the head that it builds on
    assert "_deleted_entries()" in source(_SnapshotProducer._manifests)
    assert "_validate_required_deletes" in source(_OverwriteFiles._deleted_entries)
    assert "self._process_manifests(" in source(_SnapshotProducer._manifests)
    assert "_build_manifest_evaluator" in source(_OverwriteFiles._existing_manifests)
    assert "_build_manifest_evaluator" in source(_OverwriteFiles._deleted_entries)
    assert list(inspect.signature(_ManifestMergeManager).parameters) == [
        "target_size_bytes",
        "min_count_to_merge",
        "merge_enabled",
        "snapshot_producer",
    ]
    assert "_get_protected_snapshot_ids" in source(ExpireSnapshots._commit)
    assert list(
        inspect.signature(iceberg_arrow.parquet_file_to_data_file).parameters
    ) == ["io", "table_metadata", "file_path"]
