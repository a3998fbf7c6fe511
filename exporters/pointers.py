"""The live pointer of each surface: read, and moved from one build to another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import redis

from exporters.keyspace import CHUNK_ITEMS, KEPT_S, RETIRED_S, Keys
from feedloop.contracts.lists import BuildId
from feedloop.errors import BuildInvalid


class Pointer(NamedTuple):
    """The build that a surface serves, and the one to roll back to ("": none)."""

    build_id: str
    previous: str


def read_pointer(fields: Mapping[Any, Any]) -> Pointer | None:
    """The pointer in a hash, None where there is none."""
    if b"build_id" not in fields:
        return None
    return Pointer(fields[b"build_id"].decode(), fields.get(b"previous", b"").decode())


def read_pointers(
    client: redis.Redis, keys: Keys, surfaces: Iterable[str]
) -> dict[str, Pointer]:
    """The pointers of those of ``surfaces`` that have one."""
    found = {
        surface: read_pointer(client.hgetall(keys.live(surface)))
        for surface in surfaces
    }
    return {surface: pointer for surface, pointer in found.items() if pointer}


def refuse_older(build_id: str, pointers: dict[str, Pointer]) -> None:
    """Raises ``BuildInvalid`` where a surface serves a newer build."""
    as_of = BuildId.parse(build_id).as_of
    for surface, pointer in pointers.items():
        live = BuildId.parse(pointer.build_id).as_of
        if live > as_of:
            raise BuildInvalid(
                f"{surface} serves build {pointer.build_id}, which knows more than "
                f"{build_id}; export a newer build, or this one with --force."
            )


def flip(
    client: redis.Redis,
    keys: Keys,
    surfaces: Sequence[str],
    build_id: str,
    at: datetime,
    *,
    force: bool,
) -> dict[str, str]:
    """Make ``build_id`` live on ``surfaces``, on all of them at once.

    Returns the build that each served before. Builds that nothing points to
    any more lose their place: their dictionary and cold-start lists are kept
    for a day more, for readers that are still at them. Raises ``BuildInvalid``
    for an older build than the live one unless ``force``; repeated, it changes
    nothing.
    """
    live_keys = [keys.live(surface) for surface in surfaces]
    pipe: Any
    with client.pipeline() as pipe:
        while True:
            try:
                pipe.watch(*live_keys)
                before = read_pointers(pipe, keys, surfaces)
                if not force:
                    refuse_older(build_id, before)
                after = {
                    surface: _moved(before.get(surface), build_id)
                    for surface in surfaces
                }
                retired = _retired_keys(pipe, keys, before, after)
                pipe.multi()
                for surface, pointer in after.items():
                    key = keys.live(surface)
                    if pointer != before.get(surface):
                        fields = pointer._asdict() | {"flipped_at": at.isoformat()}
                        pipe.hset(key, mapping=fields)
                    pipe.expire(key, KEPT_S)
                pipe.delete(keys.surfaces())
                pipe.sadd(keys.surfaces(), *surfaces)
                pipe.expire(keys.surfaces(), KEPT_S)
                for key in retired:
                    pipe.expire(key, RETIRED_S)
                pipe.execute()
            except redis.WatchError:
                # Another export moved a pointer in between: look again.
                continue
            return {surface: pointer.build_id for surface, pointer in before.items()}


def _moved(before: Pointer | None, build_id: str) -> Pointer:
    if before is None:
        return Pointer(build_id, "")
    if before.build_id == build_id:
        return before
    return Pointer(build_id, before.build_id)


def _retired_keys(
    client: redis.Redis,
    keys: Keys,
    before: dict[str, Pointer],
    after: dict[str, Pointer],
) -> list[bytes]:
    """The keys of the builds that only ``before`` pointed to."""
    kept = {build_id for pointer in after.values() for build_id in pointer}
    found: list[bytes] = []
    for build_id in sorted({b for p in before.values() for b in p} - kept):
        found.append(keys.build(build_id))
        items = int(client.hget(keys.build(build_id), "items") or 0)
        found += dictionary_keys(keys, build_id, items)
        found += [keys.cold(surface, build_id) for surface in before]
    return found


def dictionary_keys(keys: Keys, build_id: str, items: int) -> list[bytes]:
    """The keys of all chunks of a dictionary of ``items`` items."""
    chunks = -(-items // CHUNK_ITEMS)
    return [keys.items(build_id, chunk) for chunk in range(chunks)]
