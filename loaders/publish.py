"""Lists and feature log of a build into Iceberg, before anyone is served them.

``raw.lists`` and ``raw.feature_log`` close the loop: outcomes join the lists,
and the ranker learns from the very values it scored with. What the log holds of
an item is the same for all lists of a build: ``raw.feature_log_items`` has it once.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from feedloop.contracts.builds import (
    FEATURE_LOG_FILE,
    FEATURE_LOG_ITEMS_FILE,
    LISTS,
    LISTS_FILE,
    read_part,
)
from feedloop.contracts.tables import RAW_TABLES
from feedloop.errors import Fenced
from feedloop.settings import Settings
from loaders.iceberg import (
    FencedAppend,
    HeadFence,
    ensure_tables,
    open_catalog,
    open_table,
)
from loaders.retention import remove_days_before

ROWS_A_FILE = 100_000
ATTEMPTS = 5
TABLES = {
    "lists": LISTS_FILE,
    "feature_log": FEATURE_LOG_FILE,
    "feature_log_items": FEATURE_LOG_ITEMS_FILE,
}
EXPIRING = ("feature_log", "feature_log_items")


@dataclass(frozen=True)
class PublishReport:
    """Rows appended by table (0 where the build was there already), and files of
    the feature log that became too old."""

    lists: int
    feature_log: int
    feature_log_items: int
    expired_files: int


def append_build(settings: Settings, builds_dir: Path, build_id: str) -> PublishReport:
    """Append the lists and the feature log of a build, each once, then let the
    log's days go that are older than ``feature_log_days``.

    Repeating it, also after a kill in between, does what is missing.
    Raises ``BuildInvalid``, and ``Fenced`` where others keep committing first.
    """
    folder, manifest = read_part(builds_dir, build_id, LISTS)
    catalog = open_catalog(settings)
    ensure_tables(catalog, settings)
    appended = {
        name: _append(settings, catalog, name, folder / file, manifest.build_id)
        for name, file in TABLES.items()
    }
    days = settings.feature_log_days
    expired = sum(
        remove_days_before(settings, catalog, name, manifest.as_of, days)
        for name in EXPIRING
    )
    return PublishReport(**appended, expired_files=expired)


def _append(
    settings: Settings, catalog: Catalog, name: str, path: Path, build_id: str
) -> int:
    for attempt in itertools.count(1):
        table = open_table(catalog, settings, name)
        fence = HeadFence(table)
        if _holds(table, path, build_id):
            break
        append = FencedAppend(table)
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_A_FILE):
                rows = pa.Table.from_batches([batch])
                append.add(rows.cast(RAW_TABLES[name].schema))
        try:
            append.commit(fence)
            return append.rows
        except Fenced:
            if attempt == ATTEMPTS:
                raise
    return 0


def _holds(table: Table, path: Path, build_id: str) -> bool:
    """Whether the table has the build. All its rows carry one instant, so that
    only the files of its day are opened."""
    with pq.ParquetFile(path) as file:
        first = next(file.iter_batches(1, columns=["generated_at"]), None)
    if first is None or len(first) == 0:
        return False
    at = first["generated_at"][0].as_py().isoformat()
    wanted = f"generated_at = '{at}' and build_id = '{build_id}'"
    return table.scan(wanted, selected_fields=("build_id",), limit=1).count() > 0
