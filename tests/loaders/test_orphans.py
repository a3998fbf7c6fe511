"""Files that nothing needs go, and no others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from pyiceberg.table import Table

from feedloop.contracts import tables
from feedloop.contracts.tables import RAW_TABLES
from feedloop.errors import MaintenanceFailed
from loaders.compaction import compact
from loaders.expiry import expire
from loaders.iceberg import (
    FencedAppend,
    OffsetsKept,
)
from loaders.loader import Loader
from loaders.orphans import Removed, remove_orphans
from tests.loaders.maintained import ALL_AGES, ANY, files, later, newest, on_disk


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
