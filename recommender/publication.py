"""Writes the part ``lists/`` of a build: what is served, logged and looked up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from feedloop.contracts import builds
from feedloop.contracts.lists import (
    FEATURE_LOG_ITEMS_SCHEMA,
    FEATURE_LOG_SCHEMA,
    LISTS_SCHEMA,
    BuildId,
)
from feedloop.contracts.seeds import Surface
from recommender.arrays import vectors as float_lists
from recommender.build import open_model

PUBLICATION_SCHEMA = pa.schema(
    [
        pa.field("build_id", pa.string()),
        pa.field("model_version", pa.string()),
        pa.field("as_of", pa.timestamp("us", "UTC")),
        pa.field("lists", pa.int64()),
        pa.field("users", pa.int64()),
        pa.field("items", pa.int64()),
    ]
)

CONTRACTS = {
    builds.LISTS_FILE: LISTS_SCHEMA,
    builds.FEATURE_LOG_FILE: FEATURE_LOG_SCHEMA,
    builds.FEATURE_LOG_ITEMS_FILE: FEATURE_LOG_ITEMS_SCHEMA,
}


def feature_log_items(builds_dir: Path, build_id: str) -> pa.Table:
    """What a build knows of every item that its lists may hold
    (FEATURE_LOG_ITEMS_SCHEMA): the part of a feature row that lists share."""
    build = open_model(builds_dir, build_id)
    active = build.active_count
    columns = [
        pa.repeat(pa.scalar(build_id), active),
        pa.repeat(pa.scalar(build.manifest.as_of, pa.timestamp("us", "UTC")), active),
        build.item_ids.slice(0, active),
        float_lists(build.item_values[:active]),
    ]
    return pa.table(columns, schema=FEATURE_LOG_ITEMS_SCHEMA)


def publish(
    builds_dir: Path,
    build: Mapping[str, Any],
    surfaces: Mapping[str, Surface],
    categories: pa.Table,
    files: Mapping[str, pa.RecordBatchReader],
) -> pa.Table:
    """Write the part ``lists/`` of a build: one Parquet file for each of
    ``files``, lists and feature log held to their contracts. Returns one row."""
    counts: dict[str, int] = {}
    manifest = builds.Manifest(
        format=builds.FORMAT,
        build_id=build["build_id"],
        model_version=build["model_version"],
        as_of=BuildId.parse(build["build_id"]).as_of,
        surfaces=[s.surface for s in surfaces.values() if s.serves_list],
        feature_names=build["feature_names"],
        categories=categories.sort_by("category_place")["category"].to_pylist(),
        counts=counts,
    )
    with builds.write_part(builds_dir, builds.LISTS, manifest) as folder:
        for name, rows in files.items():
            schema = CONTRACTS.get(name, rows.schema)
            counts[name] = _write_parquet(folder / name, schema, rows)
    row = {
        "build_id": manifest.build_id,
        "model_version": manifest.model_version,
        "as_of": manifest.as_of,
        "lists": counts[builds.LISTS_FILE],
        "users": counts[builds.USER_FEATURES_FILE],
        "items": counts[builds.ITEM_FEATURES_FILE],
    }
    return pa.Table.from_pylist([row], PUBLICATION_SCHEMA)


def _write_parquet(path: Path, schema: pa.Schema, rows: pa.RecordBatchReader) -> int:
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in rows:
            table = pa.Table.from_batches([batch]).select(schema.names)
            writer.write_table(table.cast(schema))
            count += table.num_rows
    return count
