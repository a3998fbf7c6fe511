"""The same rows in fewer, sorted files, whoever commits meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table

from feedloop.contracts.log import EventLog
from feedloop.contracts.tables import RAW_TABLES
from feedloop.errors import Fenced, MaintenanceFailed
from feedloop.settings import Settings
from loaders import compaction as compaction_module
from loaders.compaction import Compacted, CompactionPolicy, compact, due
from loaders.iceberg import (
    FencedAppend,
    committed,
)
from loaders.loader import Loader
from loaders.orphans import remove_orphans
from tests.loaders.dying import Killed
from tests.loaders.maintained import (
    ALL_AGES,
    ANY,
    files,
    later,
    newest,
    on_disk,
)
from tests.loaders.sending import event, event_ids, send


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
