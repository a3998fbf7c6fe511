"""The demo's folder: one demo at a time, each from nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from feedloop.errors import StepFailed
from simulator.home import LOCK, fresh_home

HOLD = """
import sys
from pathlib import Path
from simulator.home import fresh_home
with fresh_home(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_it_starts_empty_and_keeps_what_was_made(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with fresh_home(home):
        (home / "left").mkdir()
        (home / "left" / "over").write_text("from before")
        (home / "file").write_text("too")
    assert (home / "left" / "over").exists()
    with fresh_home(home):
        assert [path.name for path in home.iterdir()] == [LOCK]


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StepFailed, match="no demo made it"), fresh_home(tmp_path):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("here")
    home = tmp_path / "home"
    with fresh_home(home):
        (home / "link").symlink_to(outside)
    with fresh_home(home):
        assert not (home / "link").exists()
    assert (outside / "kept").exists()


def test_two_at_once_get_a_sentence_and_a_killed_one_is_no_obstacle(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(StepFailed, match=f"process {other.pid}"),
            fresh_home(home),
        ):
            pass
        other.kill()
    with fresh_home(home) as lock:
        assert lock > 2


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with (
        pytest.raises(StepFailed, match="can't write"),
        fresh_home(tmp_path / "file" / "home"),
    ):
        pass
