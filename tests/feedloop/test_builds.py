"""The build folder: whole or not there."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from feedloop.contracts import builds
from feedloop.errors import BuildInvalid, ContractError

AT = datetime(2026, 1, 8, tzinfo=UTC)


def manifest(version: str = "m", at: datetime = AT) -> builds.Manifest:
    return builds.Manifest(
        format=builds.FORMAT,
        build_id=f"{version}@{at:%Y%m%dT%H%M%S%f}Z",
        model_version=version,
        as_of=at,
        surfaces=["homepage"],
        feature_names=[],
        categories=[],
        counts={},
    )


def write(folder: Path, text: str, of: builds.Manifest | None = None) -> str:
    of = of or manifest()
    with builds.write_part(folder, builds.LISTS, of) as part:
        (part / "a.txt").write_text(text)
    return of.build_id


def test_a_part_is_read_as_it_was_written(tmp_path: Path) -> None:
    build_id = write(tmp_path, "one")
    folder, found = builds.read_part(tmp_path, build_id, builds.LISTS)
    assert (folder / "a.txt").read_text() == "one"
    assert set(found.files) == {"a.txt"}
    write(tmp_path, "two")
    folder, _ = builds.read_part(tmp_path, build_id, builds.LISTS)
    assert (folder / "a.txt").read_text() == "two"
    assert {path.name for path in folder.parent.iterdir()} == {builds.LISTS}


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    build_id = write(tmp_path, "one")
    with (
        pytest.raises(RuntimeError),
        builds.write_part(tmp_path, builds.LISTS, manifest()) as part,
    ):
        (part / "a.txt").write_text("half")
        raise RuntimeError
    folder, _ = builds.read_part(tmp_path, build_id, builds.LISTS)
    assert (folder / "a.txt").read_text() == "one"
    assert {path.name for path in folder.parent.iterdir()} == {builds.LISTS}


def test_what_was_changed_or_lost_afterwards_is_refused(tmp_path: Path) -> None:
    build_id = write(tmp_path, "one")
    folder, _ = builds.read_part(tmp_path, build_id, builds.LISTS)
    (folder / "a.txt").write_text("changed")
    with pytest.raises(BuildInvalid, match=r"a\.txt"):
        builds.read_part(tmp_path, build_id, builds.LISTS)
    (folder / "a.txt").unlink()
    with pytest.raises(BuildInvalid, match="missing"):
        builds.read_part(tmp_path, build_id, builds.LISTS)
    (folder / builds.MANIFEST).write_text("{")
    with pytest.raises(BuildInvalid, match="unreadable"):
        builds.read_part(tmp_path, build_id, builds.LISTS)
    with pytest.raises(BuildInvalid, match="no model"):
        builds.read_part(tmp_path, build_id, builds.MODEL)
    with pytest.raises(ContractError):
        builds.read_part(tmp_path, "../elsewhere", builds.MODEL)


def test_the_newest_build_is_by_as_of_and_needs_lists(tmp_path: Path) -> None:
    assert builds.newest_build(tmp_path) is None
    newer = write(tmp_path, "b", manifest("a", AT.replace(day=9)))
    write(tmp_path, "a", manifest("z"))
    (tmp_path / "someone-elses" / builds.LISTS).mkdir(parents=True)
    (tmp_path / "someone-elses" / builds.LISTS / builds.MANIFEST).touch()
    unfinished = manifest("m", AT.replace(day=20))
    with builds.write_part(tmp_path, builds.MODEL, unfinished):
        pass
    assert builds.newest_build(tmp_path) == newer
