"""Reads of many requests at once: one MGET for a turn of the event loop."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, cast

import redis.asyncio

from exporters.redis_store import store_errors
from feedloop.settings import Settings

Values = list[bytes | None]


class Pair(NamedTuple):
    """The values of one user's two keys, None where there is none."""

    base: bytes | None
    fresh: bytes | None


class CoalescedReader:
    """Gathers the reads that are asked for in one turn of the loop into one
    MGET: its cost is shared, and a read still takes one round trip."""

    def __init__(self, settings: Settings, client: redis.asyncio.Redis) -> None:
        self._settings = settings
        self._client = client
        self._keys: list[bytes] = []
        self._flight: asyncio.Task[Values] | None = None

    async def read(self, base: bytes, fresh: bytes) -> Pair:
        """The values of a user's two keys, or ``StoreUnavailable``."""
        if self._flight is None:
            # A new task first runs in the loop's next turn: until then others
            # may add their keys.
            self._keys = []
            self._flight = asyncio.create_task(self._fetch())
        place = len(self._keys)
        self._keys += (base, fresh)
        # The flight is shared: one client going away must not cancel it.
        values = await asyncio.shield(self._flight)
        return Pair(values[place], values[place + 1])

    async def _fetch(self) -> Values:
        keys, self._flight = self._keys, None
        with store_errors(self._settings):
            return cast("Values", await self._client.mget(keys))
