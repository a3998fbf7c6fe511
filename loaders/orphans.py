"""Files that no snapshot has any more: left by killed writers, by attempts to
commit that failed, by compaction once the snapshots before it have expired.

Nothing younger than a safe age is touched: a commit under way has written its
files, and no snapshot has them yet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow.fs as pafs
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import ManifestEntryStatus
from pyiceberg.table import Table

from feedloop.errors import MaintenanceFailed

ATTEMPTS = 3
_METADATA_FILE = re.compile(r"(\d+)-[^/]*\.metadata\.json$")


@dataclass(frozen=True)
class Removed:
    files: int = 0
    bytes: int = 0


def remove_orphans(
    open_table: Callable[[], Table],
    orphan_age: timedelta,
    metadata_age: timedelta,
    now: datetime,
) -> Removed:
    """Remove the table's orphans older than ``orphan_age``, and metadata files
    whose next one is older than ``metadata_age``.

    ``now`` is the clock of the store that dates the files. Raises
    ``MaintenanceFailed`` where a file of the table itself is missing, having
    removed nothing, and where the store can't be read.
    """
    table = open_table()
    try:
        store = _Store(table)
        found = store.files()
        old = _ns(now - orphan_age)
        candidates = {p: f for p, f in found.items() if f.mtime_ns <= old}
        # The table is opened after its files were listed: what was committed in
        # between is no candidate any more.
        table = _reachable_removed(open_table, store, candidates)
        # those have an age of their own
        candidates = {p: f for p, f in candidates.items() if not _version(p)}
        superseded = _superseded(store, found, table, _ns(now - metadata_age), old)
        candidates |= {path: found[path] for path in superseded}
        store.remove(candidates)
    except OSError as error:
        raise MaintenanceFailed(
            f"The files of {'.'.join(table.name())} can't be looked through "
            f"({error}); mend that and run `feedloop maintain` again."
        ) from error
    return Removed(len(candidates), sum(f.size for f in candidates.values()))


class _Store:
    """The folder of a table, on whatever file system it is."""

    def __init__(self, table: Table) -> None:
        io = table.io
        if not isinstance(io, PyArrowFileIO):
            raise MaintenanceFailed(
                f"{type(io).__name__} can't list files; leave `py-io-impl` of the "
                "catalog unset, or remove orphan files by other means."
            )
        scheme, netloc, self._folder = io.parse_location(
            table.location(), io.properties
        )
        self._files = io.fs_by_scheme(scheme, netloc)
        self._io = io

    def path(self, location: str) -> str:
        """``location`` as a listing gives it."""
        return str(self._io.parse_location(location, self._io.properties)[2])

    def files(self) -> dict[str, pafs.FileInfo]:
        selector = pafs.FileSelector(self._folder, recursive=True, allow_not_found=True)
        return {
            info.path: info
            for info in self._files.get_file_info(selector)
            if info.type == pafs.FileType.File and info.mtime_ns is not None
        }

    def remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            try:
                self._files.delete_file(path)
            except FileNotFoundError:
                continue  # another run was faster


def _reachable_removed(
    open_table: Callable[[], Table],
    store: _Store,
    candidates: dict[str, pafs.FileInfo],
) -> Table:
    """Take out of ``candidates`` all that some snapshot of the table has."""
    for attempt in range(1, ATTEMPTS + 1):
        table = open_table()
        try:
            for location in _reachable(table):
                candidates.pop(store.path(location), None)
            return table
        except FileNotFoundError as error:
            # It was expired and removed while this read it, or the table is
            # broken, and then nothing must be removed.
            if attempt == ATTEMPTS:
                raise MaintenanceFailed(
                    f"{'.'.join(table.name())} misses a file of its own ({error}); "
                    "no file was removed. Restore it from a backup, or roll the "
                    "table back to a snapshot that is whole."
                ) from error
    raise AssertionError("unreachable")


def _reachable(table: Table) -> Iterator[str]:
    metadata = table.metadata
    yield table.metadata_location
    yield from (entry.metadata_file for entry in metadata.metadata_log)
    yield from (one.statistics_path for one in metadata.statistics)
    yield from (one.statistics_path for one in metadata.partition_statistics)
    read: set[str] = set()
    for snapshot in metadata.snapshots:
        yield snapshot.manifest_list
        for manifest in snapshot.manifests(table.io):
            if manifest.manifest_path in read:
                continue
            read.add(manifest.manifest_path)
            yield manifest.manifest_path
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=False):
                if entry.status != ManifestEntryStatus.DELETED:
                    yield entry.data_file.file_path


def _superseded(
    store: _Store,
    found: dict[str, pafs.FileInfo],
    table: Table,
    limit_ns: int,
    orphan_limit_ns: int,
) -> list[str]:
    """Metadata files that nobody can be reading any more.

    A reader has begun with a file while it was the newest, so that what counts
    is when the next one came. Files of attempts that lost have the same number
    as the one that won; those that aren't behind the newest may be under way.
    """
    current = _version(store.path(table.metadata_location))
    newest: dict[int, int] = {}
    for path, info in found.items():
        if version := _version(path):
            newest[version] = max(newest.get(version, 0), info.mtime_ns)
    kept = {store.path(entry.metadata_file) for entry in table.metadata.metadata_log}
    kept.add(store.path(table.metadata_location))
    superseded = []
    for path, info in found.items():
        version = _version(path)
        if not version or path in kept:
            continue
        if current and version < current:
            replaced_ns = newest.get(version + 1, info.mtime_ns)
            gone = replaced_ns <= limit_ns
        else:
            gone = info.mtime_ns <= orphan_limit_ns
        if gone:
            superseded.append(path)
    return superseded


def _version(path: str) -> int:
    """The number of a metadata file from 1 on, 0 for any other file."""
    found = _METADATA_FILE.search(path)
    return int(found[1]) + 1 if found else 0


def _ns(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000_000)
