"""Old snapshots out of a table's metadata, which every commit reads and writes.

A snapshot may go once a newer one has been the head for long enough: whoever
began to read it while it was the head can go on that long. It is not the age
of the snapshot itself that counts, as a table that nobody wrote to for a week
would then lose under its readers what they began with a minute ago.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRefType
from pyiceberg.table.snapshots import Snapshot, ancestors_of
from pyiceberg.table.update import AssertRefSnapshotId, UpdatesAndRequirements
from pyiceberg.table.update.snapshot import ExpireSnapshots

from feedloop.errors import Fenced
from loaders.iceberg import LOADS, LeanTransaction, refusals

ATTEMPTS = 10


def expirable(
    metadata: TableMetadata, age: timedelta, kept: int, now: datetime
) -> list[int]:
    """The snapshots that may go.

    A branch keeps its ``kept`` newest ones, those whose next one is younger
    than ``age``, and all down to the one that holds the loaded offsets; a tag
    keeps its snapshot. What belongs to neither goes by its own age.
    """
    limit = (now - age).timestamp() * 1000
    keep: set[int] = set()
    belong: set[int] = set()
    for ref in metadata.refs.values():
        if ref.snapshot_ref_type == SnapshotRefType.TAG:
            keep.add(ref.snapshot_id)
            continue
        line = list(ancestors_of(metadata.snapshot_by_id(ref.snapshot_id), metadata))
        belong.update(snapshot.snapshot_id for snapshot in line)
        wanted = max(
            [
                min(kept, len(line)) - 1,
                _offsets_at(line),
                # a clock that jumped back must not open a gap in the line
                *(n for n in range(1, len(line)) if line[n - 1].timestamp_ms > limit),
            ]
        )
        keep.update(snapshot.snapshot_id for snapshot in line[: wanted + 1])
    return [
        snapshot.snapshot_id
        for snapshot in metadata.snapshots
        if snapshot.snapshot_id not in keep
        and (snapshot.snapshot_id in belong or snapshot.timestamp_ms <= limit)
    ]


def _offsets_at(line: list[Snapshot]) -> int:
    """Where in ``line`` the offsets are, its end where they are nowhere."""
    for number, snapshot in enumerate(line):
        summary = snapshot.summary
        if summary is not None and LOADS in summary.additional_properties:
            return number
    return len(line) - 1


def expire(
    open_table: Callable[[], Table], age: timedelta, kept: int, now: datetime
) -> int:
    """Expire what may go; how many. The files stay for orphan removal.

    Raises ``Fenced`` where others commit between each look and its commit.
    """
    for attempt in range(1, ATTEMPTS + 1):
        table = open_table()
        old = expirable(table.metadata, age, kept, now)
        if not old:
            return 0
        try:
            with refusals(table):
                _Expire(LeanTransaction(table, autocommit=True), old).commit()
            return len(old)
        except Fenced:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


class _Expire(ExpireSnapshots):
    """pyiceberg's expiry, on the head that was looked at only: if the table was
    rolled back meanwhile, one of the old snapshots is its head by now.

    Its ``by_ids`` copies all metadata twice for each of them.
    """

    def __init__(self, transaction: Transaction, old: Iterable[int]) -> None:
        super().__init__(transaction)
        self._snapshot_ids_to_expire.update(old)

    def _commit(self) -> UpdatesAndRequirements:
        updates, requirements = super()._commit()
        head = self._transaction.table_metadata.refs[MAIN_BRANCH].snapshot_id
        seen = AssertRefSnapshotId.model_validate(
            {"type": "assert-ref-snapshot-id", "ref": MAIN_BRANCH, "snapshot-id": head}
        )
        return updates, (*requirements, seen)
