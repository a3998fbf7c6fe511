"""A build's lists and features into Redis, and the pointer that makes it live.

Everything is written under names of the build's own, counted, and only then
does the pointer move: a reader sees the old build or the new one, never half.
Every step can be repeated: running it again after a kill gives the same keys
and values, with a new life.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import redis

from exporters.build_reader import BuildReader
from exporters.codec import (
    FeatureLayout,
    encode_features,
    encode_items,
    encode_lists,
    microseconds,
)
from exporters.keyspace import CHUNK_ITEMS, KEPT_S, EntityType, Keys
from exporters.pointers import dictionary_keys, flip, read_pointers, refuse_older
from exporters.redis_store import BulkWriter, claim_namespace, store_errors
from feedloop.clock import Clock, clock_from
from feedloop.contracts.lists import BuildId
from feedloop.contracts.seeds import Surface, read_features, read_surfaces
from feedloop.errors import BuildInvalid, StoreError
from feedloop.settings import Settings
from feedloop.telemetry import Advance, progress

ENTITY_TYPES: tuple[EntityType, ...] = ("user", "item")


class ExportReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an export wrote. ``lists`` counts the users' lists, cold-start lists
    apart; ``previous`` names the build that each surface served before."""

    build_id: str
    as_of: datetime
    exported_at: datetime
    lists: int
    lists_by_surface: dict[str, int]
    previous: dict[str, str]
    items: int
    features: dict[EntityType, int]


def export_build(
    settings: Settings,
    builds_dir: Path,
    build_id: str,
    client: redis.Redis,
    clock: Clock | None = None,
    *,
    force: bool = False,
) -> ExportReport:
    """Write a build to Redis and make it live on each of its surfaces.

    ``clock`` is by default the one that the settings name; lists and features
    live from its now on. ``force`` publishes a build that is older than the
    live one. Raises ``BuildInvalid`` where the build can't be published, and
    ``ForeignNamespace``, ``StoreUnavailable`` or ``StoreError`` where the store
    can't take it. Whatever is raised, what was live stays live.
    """
    now = (clock or clock_from(settings.clock_file)).now()
    keys = Keys(settings.namespace)
    surfaces = read_surfaces(settings.seeds_dir)
    registry = read_features(settings.seeds_dir)
    build = BuildReader(builds_dir, build_id, surfaces, registry)
    names = build.manifest.surfaces
    run = _Run(client, keys, build, surfaces, now)
    with store_errors(settings):
        claim_namespace(client, keys)
        if not force:
            refuse_older(build_id, read_pointers(client, keys, names))
        evicted = _evicted(client)
        total = build.list_count() + sum(map(build.entity_count, ENTITY_TYPES))
        with progress("Exporting lists and features", total) as advance:
            items = run.write_items()
            lists = run.write_lists(items, advance)
            features = {
                entity_type: run.write_features(entity_type, advance)
                for entity_type in ENTITY_TYPES
            }
        run.write_build(len(items))
        if _evicted(client) > evicted:
            raise StoreError(
                "The online store ran out of memory and dropped keys while the "
                "build was written; the live build was left as it is. Give the "
                "store more memory, then run `feedloop export` again."
            )
        run.verify(len(items))
        previous = flip(client, keys, names, build_id, now, force=force)
    return ExportReport(
        build_id=build_id,
        as_of=BuildId.parse(build_id).as_of,
        exported_at=now,
        lists=sum(lists.values()),
        lists_by_surface=lists,
        previous=previous,
        items=len(items),
        features=features,
    )


def _evicted(client: redis.Redis) -> int:
    return int(client.info("stats")["evicted_keys"])


@dataclass(frozen=True)
class _Run:
    """One export at the instant ``now``: the steps, in the order they go."""

    client: redis.Redis
    keys: Keys
    build: BuildReader
    surfaces: Mapping[str, Surface]
    now: datetime

    @property
    def build_id(self) -> str:
        return self.build.manifest.build_id

    def write_items(self) -> Any:
        """The dictionary; returns the item ids in the order of their ordinals."""
        item_ids = self.build.item_ids()
        for chunk in range(0, len(item_ids), CHUNK_ITEMS):
            ids = item_ids.slice(chunk, CHUNK_ITEMS).to_pylist()
            value = encode_items([item_id.encode() for item_id in ids])
            key = self.keys.items(self.build_id, chunk // CHUNK_ITEMS)
            self.client.set(key, value, ex=KEPT_S)
        return item_ids

    def write_lists(self, item_ids: Any, advance: Advance) -> dict[str, int]:
        """Base and cold-start lists; returns the number of base lists by surface.

        Raises ``BuildInvalid`` where a surface has nothing for a stranger.
        """
        written = dict.fromkeys(self.build.manifest.surfaces, 0)
        cold: Counter[str] = Counter()
        with BulkWriter(self.client) as writer:
            for batch in self.build.lists(item_ids):
                surface = batch.surface
                life = timedelta(hours=self.surfaces[surface].ttl_hours)
                values = encode_lists(
                    batch.digests,
                    batch.generated_at,
                    microseconds(self.now + life),
                    batch.counts,
                    batch.ordinals,
                    batch.scores,
                )
                if batch.cold:
                    key = self.keys.cold(surface, self.build_id)
                    self.client.set(key, values[-1], ex=KEPT_S)
                    cold[surface] += int(np.count_nonzero(batch.counts))
                else:
                    before, after = self.keys.around_user(
                        "base", surface, self.build_id
                    )
                    names = [before + user_id + after for user_id in batch.user_ids]
                    writer.set(names, values, life.total_seconds())
                    written[surface] += len(values)
                advance(len(values))
        for surface in written:
            if cold[surface] != 1:
                raise BuildInvalid(
                    f"Build {self.build_id} has {cold[surface]} cold-start lists "
                    f"with items for {surface} where it must have one; run "
                    "`dbt build` again."
                )
        _check_count(writer.written, sum(written.values()))
        return written

    def write_features(self, entity_type: EntityType, advance: Advance) -> int:
        """The batch features of every entity; returns how many entities."""
        layout = self.build.feature_layout(entity_type)
        if not layout.features:
            return 0
        key = self.keys.feature_layout(layout.layout_id)
        self.client.set(key, layout.encode(), ex=KEPT_S)
        before, after = self.keys.around_entity(entity_type)
        available_at = microseconds(self.now)
        life = _feature_life(layout)
        written = 0
        with BulkWriter(self.client) as writer:
            for batch in self.build.features(entity_type, layout):
                values = encode_features(
                    layout, batch.as_of, available_at, batch.values
                )
                names = [before + entity_id + after for entity_id in batch.entity_ids]
                writer.set(names, values, life)
                written += len(values)
                advance(len(values))
        _check_count(writer.written, written)
        return written

    def write_build(self, items: int) -> None:
        """What a reader must know of the build to find its dictionary."""
        key = self.keys.build(self.build_id)
        pipe = self.client.pipeline()
        pipe.hset(key, "items", str(items))
        pipe.expire(key, KEPT_S)
        pipe.execute()

    def verify(self, items: int) -> None:
        """Raises ``StoreError`` where a key that every reader needs is gone."""
        expected = [
            self.keys.build(self.build_id),
            *dictionary_keys(self.keys, self.build_id, items),
            *(
                self.keys.cold(surface, self.build_id)
                for surface in self.build.manifest.surfaces
            ),
        ]
        _check_count(sum(self.client.exists(key) for key in expected), len(expected))


def _check_count(found: int, expected: int) -> None:
    if found != expected:
        raise StoreError(
            f"The online store kept {found} of {expected} values; the live build was "
            "left as it is. Run `feedloop export` again."
        )


def _feature_life(layout: FeatureLayout) -> int:
    """Seconds in Redis: as long as one of the features is worth reading."""
    return max(feature.ttl_seconds or KEPT_S for feature in layout.features)
