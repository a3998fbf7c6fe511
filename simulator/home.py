"""The demo's own folder: one demo at a time, each from nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feedloop.errors import StepFailed

LOCK = "demo.lock"
ENDING_S = 30.0
POLL_S = 0.1


@contextmanager
def fresh_home(home: Path) -> Iterator[int]:
    """Empties ``home`` and keeps it for this process; yields the lock.

    The lock is a file descriptor. Processes that inherit it keep the home too,
    so that after a demo was killed the next one waits until the last of them
    has ended. Raises ``StepFailed`` where another demo runs, where ``home``
    is not a demo's folder, and where it can't be written.
    """
    try:
        if home.is_dir() and any(home.iterdir()) and not (home / LOCK).is_file():
            raise StepFailed(
                f"{home} is there and no demo made it; remove it, or run the demo "
                "in another folder."
            )
        home.mkdir(parents=True, exist_ok=True)
        lock = os.open(home / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StepFailed(
            f"The demo can't write to {home} ({error.strerror}); run it in a folder "
            "where it can."
        ) from error
    try:
        _take(lock, home)
        _empty(home)
        yield lock
    finally:
        os.close(lock)


def _take(lock: int, home: Path) -> None:
    deadline = time.monotonic() + ENDING_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            owner = os.pread(lock, 20, 0).decode(errors="replace").strip()
            if _runs(owner) or time.monotonic() > deadline:
                raise StepFailed(
                    f"Another demo (process {owner or 'unknown'}) uses {home}; wait "
                    "for it, stop it, or run this one in another folder."
                ) from error
            # It was killed, and its servers are still putting things away.
            time.sleep(POLL_S)
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)


def _runs(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _empty(home: Path) -> None:
    for path in home.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            _remove(path)
        else:
            path.unlink()


def _remove(folder: Path) -> None:
    for last in (False, True):
        try:
            shutil.rmtree(folder)
            return
        except OSError as error:
            # A server that is just ending may add a file while we remove.
            if last or error.errno != errno.ENOTEMPTY:
                raise StepFailed(
                    f"{folder} of an earlier demo can't be removed "
                    f"({error.strerror}); remove it and try again."
                ) from error
            time.sleep(POLL_S)
