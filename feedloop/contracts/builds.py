"""A build is a folder: everything one run needs to score, and what it made.

``<builds_dir>/<build_id>/model/`` holds what the kernel reads (items, vectors,
index, neighbours, ranker); ``<builds_dir>/<build_id>/lists/`` what the run
published (lists, feature log, features). Each part is written once, beside its
place, and moved there whole; ``manifest.json`` holds a hash of every file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import msgspec

from feedloop.contracts.lists import BuildId
from feedloop.errors import BuildInvalid, ContractError

FORMAT = 6
MODEL, LISTS = "model", "lists"
MANIFEST = "manifest.json"

# the files of the part LISTS
LISTS_FILE = "lists.parquet"
FEATURE_LOG_FILE = "feature_log.parquet"
FEATURE_LOG_ITEMS_FILE = "feature_log_items.parquet"
USER_FEATURES_FILE = "user_features.parquet"
ITEM_FEATURES_FILE = "item_features.parquet"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a part of a build is. ``files`` maps names to SHA-256."""

    format: int
    build_id: str
    model_version: str
    as_of: datetime
    surfaces: list[str]
    feature_names: list[str]
    categories: list[str]
    counts: dict[str, int]
    files: dict[str, str] = {}


def build_dir(builds_dir: Path, build_id: str) -> Path:
    BuildId.parse(build_id)  # so that a hostile id can't leave the folder
    return builds_dir / build_id


@contextmanager
def write_part(builds_dir: Path, part: str, manifest: Manifest) -> Iterator[Path]:
    """Yields a folder to fill; on leaving, hashes it and moves it into place.

    A part that is already there is replaced whole: the same inputs give the
    same content, so that a repeated run changes nothing for a reader.
    """
    final = build_dir(builds_dir, manifest.build_id) / part
    draft = final.with_name(f".{part}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        files = {
            str(path.relative_to(draft)): _sha256(path)
            for path in sorted(draft.rglob("*"))
            if path.is_file()
        }
        complete = msgspec.structs.replace(manifest, files=files)
        (draft / MANIFEST).write_bytes(
            msgspec.json.format(msgspec.json.encode(complete))
        )
        if final.exists():
            old = final.with_name(f".{part}.old.{os.getpid()}")
            final.rename(old)
            draft.rename(final)
            shutil.rmtree(old)
        else:
            draft.rename(final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_part(builds_dir: Path, build_id: str, part: str) -> tuple[Path, Manifest]:
    """The folder of a part and its manifest, every hash checked.

    Raises ``BuildInvalid`` where it is missing, torn or of another format.
    """
    folder = build_dir(builds_dir, build_id) / part
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise BuildInvalid(
            f"There is no {part} of build {build_id} in {builds_dir}; run `dbt build`."
        ) from error
    except msgspec.DecodeError as error:
        raise BuildInvalid(f"{folder / MANIFEST} is unreadable: {error}") from error
    if manifest.format != FORMAT:
        raise BuildInvalid(
            f"{folder} has format {manifest.format}, this version reads {FORMAT}; "
            "run `dbt build` again."
        )
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file() or _sha256(path) != digest:
            raise BuildInvalid(
                f"{path} is missing or was changed after the build was made; "
                "run `dbt build` again."
            )
    return folder, manifest


def newest_build(
    builds_dir: Path, part: str = LISTS, before: datetime | None = None
) -> str | None:
    """The build with the ``part`` whose ``as_of`` is latest (ties: by name), of
    those earlier than ``before``."""
    found: list[tuple[datetime, str]] = []
    for path in builds_dir.glob(f"*/{part}/{MANIFEST}"):
        name = path.parent.parent.name
        try:
            as_of = BuildId.parse(name).as_of
        except ContractError:
            continue  # a folder of someone else's
        if before is None or as_of < before:
            found.append((as_of, name))
    return max(found)[1] if found else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
