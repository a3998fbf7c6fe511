"""Milliseconds, as a log has them, and instants."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from feedloop.clock import Clock
from feedloop.contracts.log import Message

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MS = 253_370_764_800_000  # the year 9999: any hour of skew still fits


def milliseconds(message: Message, clock: Clock) -> int:
    """The time a log gives ``message``. Raises ``ValueError`` before 1970."""
    at = message.timestamp or clock.now()
    ms = (at - EPOCH) // timedelta(milliseconds=1)
    if ms < 0:
        raise ValueError(f"A log knows no time before 1970, as {at.isoformat()} is.")
    return ms


def instant(ms: int) -> datetime | None:
    """The instant ``ms`` after 1970 began, None where that is no usable time."""
    if not 0 <= ms <= LAST_MS:
        return None
    return EPOCH + timedelta(milliseconds=ms)


def usable(timestamps_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of them ``instant`` knows."""
    known: NDArray[np.bool_] = (timestamps_ms >= 0) & (timestamps_ms <= LAST_MS)
    return known
