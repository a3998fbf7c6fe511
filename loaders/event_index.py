"""Which data file may hold an ``event_id``: sorted hashes, 12 bytes an event.

Iceberg's data files never change, so that what was read of one stays true for
as long as it exists. The index is a cache of the tables' own files: it may be
deleted at any time and be behind, but what it says a file doesn't hold, the
file doesn't hold.

Hashes lie in runs, each sorted and never changed once it is in place. A new run
swallows those that are not much larger, so that there are few of them however
many files there are. Any number of processes may read, add and merge at once.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
_Number = TypeVar("_Number", np.uint32, np.uint64)

# a run takes in those that hold up to as many times what it holds by then
GROWTH = 3
MERGED_AT_ONCE = 1 << 20


def hashes_of(texts: pa.ChunkedArray) -> Hashes:
    """One hash a text, in their order. It is DuckDB's, and may change with it."""
    with duckdb.connect() as connection:
        connection.register("texts", pa.table({"text": texts}))
        found = connection.execute("select hash(text) as hash from texts")
        hashes: Hashes = found.fetchnumpy()["hash"]
    return hashes


@dataclass(frozen=True)
class _Run:
    """``hashes`` ascend; ``owners`` are positions in ``files``, the data files."""

    folder: Path
    files: Sequence[str]
    hashes: Hashes
    owners: NDArray[np.uint32]


class EventIndex:
    """The index below ``folder``, which is this index's alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / f"duckdb-{duckdb.__version__}"
        self._runs: dict[str, _Run] = {}

    def files(self) -> set[str]:
        """The data files whose hashes it has, and which ``holders`` searches."""
        self._refresh()
        return {file for run in self._runs.values() for file in run.files}

    def holders(self, hashes: Hashes) -> dict[str, NDArray[np.intp]]:
        """The data files that may hold some of ``hashes``, and the positions of
        those in it."""
        order = np.argsort(hashes)
        ascending = hashes[order]
        found: dict[str, list[NDArray[np.intp]]] = {}
        for run in self._runs.values():
            if not len(run.hashes):
                continue
            first = np.searchsorted(run.hashes, ascending)
            inside = np.minimum(first, len(run.hashes) - 1)
            hits = np.flatnonzero(run.hashes[inside] == ascending)
            if not len(hits):
                continue
            first = first[hits]
            counts = np.searchsorted(run.hashes, ascending[hits], "right") - first
            # every entry of every hit: several files may hold one hash
            before = counts.cumsum() - counts
            entries = np.repeat(first - before, counts) + np.arange(counts.sum())
            owners = run.owners[entries]
            positions = order[np.repeat(hits, counts)]
            for owner in np.unique(owners).tolist():
                part = positions[owners == owner]
                found.setdefault(run.files[owner], []).append(part)
        return {file: np.unique(np.concatenate(parts)) for file, parts in found.items()}

    def add(self, entries: Mapping[str, Hashes], existing: Collection[str]) -> None:
        """Add the hashes of data files. Of what is merged on the way, files that
        are not ``existing`` are forgotten."""
        if not entries:
            return
        files = list(entries)
        owners = [np.full(len(entries[f]), n, np.uint32) for n, f in enumerate(files)]
        hashes = np.concatenate(list(entries.values()))
        order = np.argsort(hashes, kind="stable")
        new = _Run(Path(), files, hashes[order], np.concatenate(owners)[order])
        with self._locked():
            self._refresh()
            merged = [new]
            total = len(new.hashes)
            for run in sorted(self._runs.values(), key=lambda run: len(run.hashes)):
                useless = not any(file in existing for file in run.files)
                if useless or len(run.hashes) <= GROWTH * total:
                    merged.append(run)
                    total += len(run.hashes)
            self._write(merged, {*files, *existing})
            for run in merged[1:]:
                # at once out of sight: half a run must never be seen
                gone = self._folder / f".{run.folder.name}"
                shutil.rmtree(run.folder.rename(gone))
            self._refresh()

    def _write(self, runs: Sequence[_Run], existing: Collection[str]) -> None:
        """One run of several, a range of hashes at a time, so that memory does
        not grow with them."""
        files = sorted({file for run in runs for file in run.files} & set(existing))
        numbers = {file: number for number, file in enumerate(files)}
        renumbered = [
            np.array([numbers.get(file, len(files)) for file in run.files], np.uint32)
            for run in runs
        ]
        draft = self._folder / f".{uuid.uuid4().hex}"
        draft.mkdir()
        parts = 1 + sum(len(run.hashes) for run in runs) // MERGED_AT_ONCE
        # searchsorted would turn both sides into floats if these were not uint64
        bounds = np.array([n * (1 << 64) // parts for n in range(1, parts)], np.uint64)
        cuts = [
            [0, *np.searchsorted(run.hashes, bounds).tolist(), len(run.hashes)]
            for run in runs
        ]
        with (
            (draft / "hashes").open("wb") as hashes_file,
            (draft / "owners").open("wb") as owners_file,
        ):
            for part in range(parts):
                slices = [slice(cut[part], cut[part + 1]) for cut in cuts]
                hashes = np.concatenate(
                    [r.hashes[s] for r, s in zip(runs, slices, strict=True)]
                )
                owners = np.concatenate(
                    [
                        new[run.owners[s]]
                        for run, s, new in zip(runs, slices, renumbered, strict=True)
                    ]
                )
                order = np.argsort(hashes, kind="stable")
                order = order[owners[order] < len(files)]
                hashes_file.write(hashes[order].data)
                owners_file.write(owners[order].data)
        (draft / "files").write_bytes(msgspec.json.encode(files))
        draft.rename(self._folder / uuid.uuid4().hex)

    def _refresh(self) -> None:
        """See what other processes added and merged."""
        while True:
            names = {path.name for path in self._folder.glob("[!.]*")}
            self._runs = {n: run for n, run in self._runs.items() if n in names}
            try:
                for name in names - self._runs.keys():
                    self._runs[name] = _open(self._folder / name)
                return
            except FileNotFoundError:
                continue  # it was merged into another one just now

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            for draft in self._folder.glob(".*"):  # of a process that was killed
                shutil.rmtree(draft)
            yield
        finally:
            os.close(fd)


def _open(folder: Path) -> _Run:
    files = msgspec.json.decode((folder / "files").read_bytes(), type=list[str])
    return _Run(
        folder,
        files,
        _mapped(folder / "hashes", np.uint64),
        _mapped(folder / "owners", np.uint32),
    )


def _mapped(path: Path, kind: type[_Number]) -> NDArray[_Number]:
    if not path.stat().st_size:  # what is empty can't be mapped
        return np.empty(0, kind)
    mapped: NDArray[_Number] = np.memmap(path, kind, "r")
    return mapped
