"""Looks at a table that is maintained, and the policies of its tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pyiceberg.table import Table

from loaders.compaction import CompactionPolicy

ANY = CompactionPolicy(64 << 20, min_files=2)
ALL_AGES = timedelta(0)


def later(hours: float) -> datetime:
    """The system's clock: it dates commits and files."""
    return datetime.now(UTC) + timedelta(hours=hours)


def files(table: Table) -> list[str]:
    return sorted(task.file.file_path for task in table.scan().plan_files())


def on_disk(table: Table) -> set[str]:
    folder = Path(table.location().removeprefix("file://"))
    return {path.as_uri() for path in folder.rglob("*") if path.is_file()}


def newest(table: Table, name: str = "events") -> list[dict[str, Any]]:
    return sorted(table.scan().to_arrow().to_pylist(), key=lambda row: row["event_id"])
