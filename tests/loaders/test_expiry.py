"""Old snapshots go, and neither offsets nor readers with them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from pyiceberg.table import Table

from feedloop.contracts.log import EventLog
from feedloop.settings import Settings
from loaders.expiry import expirable, expire
from loaders.iceberg import (
    committed,
)
from loaders.loader import Loader
from tests.loaders.maintained import ALL_AGES, later, newest


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
