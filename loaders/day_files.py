"""The data files of a table that is partitioned by day, found quickly.

pyiceberg's scan evaluates its filter anew for every file, at a millisecond
each. A loader asks before each commit, and all it needs is a file's day; what a
manifest says never changes, so that each is read once.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pyiceberg.manifest import DataFile, DataFileContent, ManifestFile
from pyiceberg.table import FileScanTask, Table


class DayFiles:
    """Files of one table after another, or of one as it grows."""

    def __init__(self) -> None:
        self._read: dict[str, list[DataFile]] = {}

    def of(self, table: Table, days: Collection[int]) -> dict[str, FileScanTask]:
        """The files of ``days`` (since 1970) at the table's head, by path. Files
        of a partition spec of old are among them whatever their day."""
        snapshot = table.current_snapshot()
        if snapshot is None:
            return {}
        spec = table.spec().spec_id
        manifests = [
            manifest
            for manifest in snapshot.manifests(table.io)
            if manifest.partition_spec_id != spec or _may_have(manifest, days)
        ]
        self._read = {
            manifest.manifest_path: self._read.get(manifest.manifest_path)
            or [entry.data_file for entry in manifest.fetch_manifest_entry(table.io)]
            for manifest in manifests
        }
        files = [
            file
            for found in self._read.values()
            for file in found
            if file.spec_id != spec or file.partition[0] in days
        ]
        deletes: dict[Any, set[DataFile]] = {}
        for file in files:
            if file.content != DataFileContent.DATA:
                deletes.setdefault(file.partition, set()).add(file)
        return {
            file.file_path: FileScanTask(file, deletes.get(file.partition))
            for file in files
            if file.content == DataFileContent.DATA
        }


def _may_have(manifest: ManifestFile, days: Collection[int]) -> bool:
    summaries = manifest.partitions or []
    bounds = [(one.lower_bound, one.upper_bound) for one in summaries]
    if len(bounds) != 1 or bounds[0][0] is None or bounds[0][1] is None:
        return True
    first, last = (int.from_bytes(b, "little", signed=True) for b in bounds[0] if b)
    return any(first <= day <= last for day in days)
