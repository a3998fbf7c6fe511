"""What the serving API keeps in memory: which build is live on each surface,
its dictionary and cold-start list, and the items that went inactive since.

It is read again in the background, so that a request reads nothing but its
user's two keys and still never sees a pointer more than a second old.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import redis.asyncio

from exporters.codec import ItemDictionary, StoredList, decode_list
from exporters.keyspace import Keys
from exporters.pointers import dictionary_keys, read_pointer
from exporters.redis_store import check_marker, store_errors
from feedloop.contracts.lists import BuildId
from feedloop.errors import StoreError
from feedloop.settings import Settings
from feedloop.telemetry import log_event

REFRESH_S = 0.5
STALE_S = 3.0
"""Older than this, the memory is reported as not ready."""


@dataclass(frozen=True)
class LiveSurface:
    """One surface's build. The keys of a user's lists are the id between
    ``before`` and ``base_after`` or ``fresh_after``."""

    surface: str
    build_id: str
    model_version: str
    items: ItemDictionary
    cold: StoredList
    before: bytes
    base_after: bytes
    fresh_after: bytes


@dataclass(frozen=True)
class Snapshot:
    """What was live at one refresh."""

    surfaces: Mapping[str, LiveSurface] = field(default_factory=dict)
    inactive: frozenset[str] = frozenset()


class LiveBuilds:
    """The newest snapshot, kept up to date by ``keep_fresh``."""

    def __init__(self, settings: Settings, client: redis.asyncio.Redis) -> None:
        self._settings = settings
        self._client = client
        self._keys = Keys(settings.namespace)
        self._refreshed = float("-inf")
        self.snapshot = Snapshot()
        self.trouble = "Nothing has been read from the online store yet."
        """Why the last refresh failed, "" where it didn't."""

    def age_s(self) -> float:
        """Seconds since the last refresh that worked."""
        return time.monotonic() - self._refreshed

    async def keep_fresh(self, stopping: asyncio.Event) -> None:
        """Refresh until ``stopping`` is set; a store that is away is asked again.

        An event and not a cancellation, which redis-py may swallow.
        """
        while not stopping.is_set():
            await self.try_refresh()
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), REFRESH_S)

    async def try_refresh(self) -> None:
        """Refresh, or note in ``trouble`` why that is impossible now."""
        try:
            await self.refresh()
        except StoreError as error:
            if str(error) != self.trouble:
                log_event("serving", "store trouble", reason=str(error))
            self.trouble = str(error)
        else:
            self.trouble = ""

    async def refresh(self) -> None:
        """Read pointers and inactive items, and what changed with them.

        Raises ``StoreError`` where the store is away or holds another layout;
        the snapshot is then what it was.
        """
        with store_errors(self._settings):
            pipe = self._client.pipeline(transaction=False)
            pipe.hgetall(self._keys.meta())
            pipe.smembers(self._keys.surfaces())
            pipe.smembers(self._keys.inactive())
            marker, names, inactive = await pipe.execute()
            if marker:
                check_marker(marker, self._keys)
            surfaces = {}
            for name in sorted(name.decode() for name in names):
                live = await self._live(name)
                if live is not None:
                    surfaces[name] = live
        self.snapshot = Snapshot(
            surfaces, frozenset(item_id.decode() for item_id in inactive)
        )
        self._refreshed = time.monotonic()

    async def _live(self, surface: str) -> LiveSurface | None:
        pointer = read_pointer(await self._client.hgetall(self._keys.live(surface)))
        if pointer is None:
            return None
        known = self.snapshot.surfaces
        if surface in known and known[surface].build_id == pointer.build_id:
            return known[surface]
        build_id = pointer.build_id
        cold = cast(
            "bytes | None", await self._client.get(self._keys.cold(surface, build_id))
        )
        if cold is None:
            raise StoreError(
                f"Build {build_id} is live on {surface}, but its cold-start list is "
                "gone; run `feedloop export` again."
            )
        before, base_after = self._keys.around_user("base", surface, build_id)
        _, fresh_after = self._keys.around_user("fresh", surface, build_id)
        return LiveSurface(
            surface,
            build_id,
            BuildId.parse(build_id).model_version,
            await self._items(build_id),
            decode_list(cold),
            before,
            base_after,
            fresh_after,
        )

    async def _items(self, build_id: str) -> ItemDictionary:
        for live in self.snapshot.surfaces.values():
            if live.build_id == build_id:
                return live.items
        count = await self._client.hget(self._keys.build(build_id), "items")
        chunks = []
        for key in dictionary_keys(self._keys, build_id, int(count or 0)):
            chunk = cast("bytes | None", await self._client.get(key))
            if chunk is None:
                raise StoreError(
                    f"Build {build_id} is live, but a part of its item dictionary is "
                    "gone; run `feedloop export` again."
                )
            chunks.append(chunk)
        return ItemDictionary(chunks)
