"""One injectable clock for everything that must know what time it is.

Models never read a clock: they get an ``as_of``. The collector, the stream,
TTLs, ``run`` and ``simulate`` read the clock that the setting ``clock_file``
selects, so that a simulated week looks the same to all of them.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from feedloop.errors import SettingsError


class Clock(Protocol):
    def now(self) -> datetime:
        """The current instant, in UTC."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class FixedClock:
    """A clock that stands where it was put, for tests."""

    def __init__(self, at: datetime) -> None:
        self.at = at.astimezone(UTC)

    def now(self) -> datetime:
        return self.at


class FileClock:
    """A clock that other processes can read: an ISO instant in a file.

    ``set`` replaces the file atomically; ``now`` reads it again only when the
    file has changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = (-1, -1)
        self._at = datetime.fromtimestamp(0, UTC)

    def set(self, at: datetime) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(f".{os.getpid()}")
        draft.write_text(at.astimezone(UTC).isoformat())
        draft.replace(self.path)

    def now(self) -> datetime:
        try:
            stat = self.path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp != self._stamp:
                text = self.path.read_text()
                self._at = datetime.fromisoformat(text.strip()).astimezone(UTC)
                self._stamp = stamp
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"The clock file {self.path} can't be read ({error}); write an "
                "ISO instant to it or unset FEEDLOOP_CLOCK_FILE."
            ) from error
        return self._at


def clock_from(clock_file: str) -> Clock:
    """The clock that the setting ``clock_file`` names ("" is the system's)."""
    return FileClock(Path(clock_file)) if clock_file else SystemClock()
