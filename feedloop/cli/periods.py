"""Times on the command line, and a wait that a signal ends."""

from __future__ import annotations

import os
import re
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType

import click

UNITS = {"s": 1, "m": 60, "h": 3600}


class Period(click.ParamType[float]):
    """``60s``, ``5m`` or ``1h`` as seconds."""

    name = "period"

    def convert(
        self,
        value: str | float,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", value)
        if found is None or float(found[1]) == 0:
            self.fail(f"{value!r} is not a period such as 60s, 5m or 1h.", param, ctx)
        return float(found[1]) * UNITS[found[2]]


class Instant(click.ParamType[datetime]):
    """An ISO instant; what has no zone is UTC."""

    name = "instant"

    def convert(
        self,
        value: str | datetime,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            at = datetime.fromisoformat(value)
            return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is no instant such as 2026-01-08 or 2026-01-08T09:30:00Z.",
                param,
                ctx,
            )


class StopSignal:
    """Whether SIGTERM or SIGINT came, and a wait that they end."""

    def __init__(self) -> None:
        self.came = False
        # A lock that the main thread may hold can't be taken in a handler.
        self._woken, self._wake = os.pipe()

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        os.write(self._wake, b"!")

    def wait(self, seconds: float) -> None:
        select.select([self._woken], [], [], seconds)

    def close(self) -> None:
        os.close(self._woken)
        os.close(self._wake)


@contextmanager
def stopped_by_signal() -> Iterator[StopSignal]:
    """SIGTERM and SIGINT are noted, instead of ending the process."""
    stop = StopSignal()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, stop.handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()
