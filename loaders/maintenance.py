"""Keeping the raw tables quick: compaction, snapshot expiry, orphan removal.

All of it is safe beside loaders, builds and a second maintenance, and whatever
it is killed in the middle of, the next run goes on. Ages are those of commits
and files, which the system's clock dates, never Feedloop's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from feedloop.contracts.tables import RAW_TABLES
from feedloop.settings import Settings
from loaders.compaction import Compacted, CompactionPolicy, compact
from loaders.expiry import expire
from loaders.iceberg import answering, open_catalog, open_table
from loaders.orphans import Removed, remove_orphans


@dataclass(frozen=True)
class MaintenanceReport:
    """What was done to one table."""

    table: str
    compacted: Compacted
    snapshots_expired: int
    orphans: Removed


def policy_of(settings: Settings) -> CompactionPolicy:
    return CompactionPolicy(settings.compact_target_mb << 20)


def maintain(
    settings: Settings,
    now: datetime,
    *,
    go_on: Callable[[], bool] = lambda: True,
) -> Iterator[MaintenanceReport]:
    """Maintain every raw table that exists; one report each.

    ``go_on`` is asked before steps that may take long. Raises ``Fenced`` where
    another process is always faster, ``OffsetHistoryExpired``,
    ``TablesUnavailable`` and ``MaintenanceFailed``; the table is whole then too.
    """
    catalog = open_catalog(settings)
    for name in RAW_TABLES:
        with answering():
            exists = catalog.table_exists((settings.raw_schema, name))
        if exists:
            yield maintain_table(settings, catalog, name, now, go_on)


def maintain_table(
    settings: Settings,
    catalog: Catalog,
    name: str,
    now: datetime,
    go_on: Callable[[], bool] = lambda: True,
) -> MaintenanceReport:
    """Maintain one raw table, as ``maintain`` does."""

    def opened() -> Table:
        return open_table(catalog, settings, name)

    age = timedelta(seconds=settings.snapshot_age_s)
    orphan_age = timedelta(seconds=settings.orphan_age_s)
    expired = expire(opened, age, settings.snapshots_kept, now)
    compacted = compact(opened, RAW_TABLES[name].sort_by, policy_of(settings), go_on)
    orphans = remove_orphans(opened, orphan_age, age, now) if go_on() else Removed()
    return MaintenanceReport(name, compacted, expired, orphans)
