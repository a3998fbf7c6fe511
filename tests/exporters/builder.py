"""Small build folders, written through the contract like real ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from feedloop.contracts import builds
from feedloop.contracts.lists import (
    COLD_USER,
    EXPECTED,
    FEATURE_LOG_ITEMS_SCHEMA,
    FEATURE_LOG_SCHEMA,
    LISTS_SCHEMA,
    BuildId,
    rec_id,
)
from feedloop.settings import Settings

CATEGORIES = ["news", "sport"]
COLD_ITEMS = ["popular_1", "popular_2", "popular_3"]
Lists = Mapping[str, Sequence[str]]

_FEATURE_TYPES = {
    "user_events_7d": pa.int64(),
    "user_active_days_30d": pa.int64(),
    "user_impressions_30d": pa.int64(),
    "user_ctr_30d": pa.float64(),
    "user_dwell_7d_ms": pa.float64(),
    "user_sessions_7d": pa.float64(),
    "user_hours_since_engaged": pa.float64(),
    "user_is_little_known": pa.float64(),
    "user_category_affinity": pa.list_(pa.float64()),
    "item_trending": pa.float64(),
    "item_trending_1h": pa.float64(),
    "item_trending_10m": pa.float64(),
    "item_popularity_1d": pa.float64(),
    "item_popularity_7d": pa.float64(),
    "item_popularity_30d": pa.float64(),
    "item_impressions_30d": pa.int64(),
    "item_ctr_30d": pa.float64(),
    "item_age_days": pa.float64(),
}


def score(place: int) -> float:
    """The score that the builder gives to a list's item at ``place``."""
    return 1.0 - place / 1024


def write_build(
    settings: Settings,
    as_of: datetime,
    lists: Lists,
    *,
    model_version: str = "v1",
    cold: Sequence[str] = COLD_ITEMS,
    surfaces: Sequence[str] = ("homepage",),
    users: Iterable[Mapping[str, Any]] = (),
    items: Iterable[Mapping[str, Any]] = (),
    row_group: int | None = None,
) -> str:
    """Write the part ``lists/`` of a build; returns its id.

    ``lists`` are the users' items, best first, the same on every surface;
    ``users`` and ``items`` feature rows, what a row leaves out being null.
    ``row_group``: rows of each group of a file, all of them by default.
    """
    build_id = str(BuildId(model_version, as_of))
    rows = [
        list_row(build_id, user_id, surface, found, as_of)
        for surface in surfaces
        for user_id, found in {**lists, COLD_USER: cold}.items()
    ]
    tables = {
        builds.LISTS_FILE: pa.Table.from_pylist(rows, LISTS_SCHEMA),
        builds.FEATURE_LOG_FILE: FEATURE_LOG_SCHEMA.empty_table(),
        builds.FEATURE_LOG_ITEMS_FILE: FEATURE_LOG_ITEMS_SCHEMA.empty_table(),
        builds.USER_FEATURES_FILE: features_table("user", users, as_of),
        builds.ITEM_FEATURES_FILE: features_table("item", items, as_of),
    }
    return write_tables(settings, build_id, tables, surfaces, row_group)


def write_tables(
    settings: Settings,
    build_id: str,
    tables: Mapping[str, pa.Table],
    surfaces: Sequence[str] = ("homepage",),
    row_group: int | None = None,
) -> str:
    """The part ``lists/`` with exactly these tables, right or wrong."""
    parsed = BuildId.parse(build_id)
    manifest = builds.Manifest(
        format=builds.FORMAT,
        build_id=build_id,
        model_version=parsed.model_version,
        as_of=parsed.as_of,
        surfaces=list(surfaces),
        feature_names=[],
        categories=CATEGORIES,
        counts={name: table.num_rows for name, table in tables.items()},
    )
    with builds.write_part(settings.builds_dir, builds.LISTS, manifest) as folder:
        for name, table in tables.items():
            pq.write_table(table, folder / name, row_group_size=row_group)
    return build_id


def list_row(
    build_id: str, user_id: str, surface: str, items: Sequence[str], as_of: datetime
) -> dict[str, Any]:
    return {
        "rec_id": rec_id(user_id, surface, build_id),
        "user_id": user_id,
        "surface": surface,
        "item_ids": list(items),
        "scores": [score(place) for place in range(len(items))],
        "sources": ["als"] * len(items),
        "propensities": [1.0] * len(items),
        "pool_sizes": [1] * len(items),
        "expectations": [0.0] * (EXPECTED * len(items)),
        "reasons": [],
        "reason_values": [],
        "model_version": BuildId.parse(build_id).model_version,
        "build_id": build_id,
        "generated_at": as_of,
        "expires_at": as_of + timedelta(hours=48),
    }


def features_table(
    entity_type: str, rows: Iterable[Mapping[str, Any]], as_of: datetime
) -> pa.Table:
    schema = pa.schema(
        [
            pa.field(f"{entity_type}_id", pa.string()),
            pa.field("as_of", pa.timestamp("us", "UTC")),
            # Columns that are no features are there too, and are left alone.
            pa.field("available_at", pa.timestamp("us", "UTC")),
            *(
                pa.field(name, kind)
                for name, kind in _FEATURE_TYPES.items()
                if name.startswith(f"{entity_type}_")
            ),
        ]
    )
    complete = [{"as_of": as_of, "available_at": as_of} | dict(row) for row in rows]
    return pa.Table.from_pylist(complete, schema)
