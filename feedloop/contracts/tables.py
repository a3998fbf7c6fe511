"""The raw tables: one Arrow schema each, from which Iceberg's is made.

Every row of a stream carries where it stood in the log and the sequence number
of the commit that wrote it (``load_seq``): downstream models find what is new
by ``load_seq``, which unlike a clock never runs backwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from feedloop.contracts.lists import (
    FEATURE_LOG_ITEMS_SCHEMA,
    FEATURE_LOG_SCHEMA,
    LISTS_SCHEMA,
)
from feedloop.contracts.log import EVENTS, ITEMS, USERS

DEAD_LETTERS, ACCEPTED_LOSSES = "dead_letters", "accepted_losses"

_instant = pa.timestamp("us", "UTC")

_origin = [
    pa.field("ingested_at", _instant, nullable=False),
    pa.field("log_partition", pa.int32(), nullable=False),
    pa.field("log_offset", pa.int64(), nullable=False),
    pa.field("load_seq", pa.int64(), nullable=False),
]

EVENTS_SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("event_type", pa.string(), nullable=False),
        pa.field("occurred_at", _instant, nullable=False),
        pa.field("event_value", pa.float64()),
        pa.field("context", pa.string()),
        pa.field("rec_id", pa.string()),
        pa.field("session_id", pa.string()),
        pa.field("device", pa.string()),
        pa.field("surface", pa.string()),
        pa.field("page_position", pa.int32()),
        pa.field("request_id", pa.string()),
        pa.field("model_version", pa.string()),
        pa.field("dwell_time_ms", pa.int64()),
        *_origin,
    ]
)
"""``rec_id`` is taken from a ``request_id`` whose signature is right, else
null: a forged impression has none and teaches nothing."""

ITEMS_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("published_at", _instant, nullable=False),
        pa.field("is_active", pa.bool_(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("description", pa.string()),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("metadata", pa.string()),
        *_origin,
    ]
)

USERS_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("created_at", _instant, nullable=False),
        pa.field("country", pa.string()),
        pa.field("segment", pa.string()),
        pa.field("device", pa.string()),
        pa.field("referral_source", pa.string()),
        pa.field("declared_preferences", pa.list_(pa.string())),
        pa.field("metadata", pa.string()),
        *_origin,
    ]
)

DEAD_LETTERS_SCHEMA = pa.schema(
    [
        pa.field("stream", pa.string(), nullable=False),
        pa.field("field", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("key", pa.string()),
        pa.field("value", pa.binary()),
        *_origin,
    ]
)
"""What the loader could not store: the bytes as they came, and why."""

ACCEPTED_LOSSES_SCHEMA = pa.schema(
    [
        pa.field("stream", pa.string(), nullable=False),
        pa.field("topic", pa.string(), nullable=False),
        pa.field("log_partition", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("from_offset", pa.int64()),
        pa.field("to_offset", pa.int64()),
        pa.field("resumed_at", pa.int64()),
        pa.field("loaded_topic_id", pa.string()),
        pa.field("log_topic_id", pa.string(), nullable=False),
        pa.field("load_seq", pa.int64(), nullable=False),
        pa.field("accepted_at", _instant, nullable=False),
        pa.field("accepted_by", pa.string(), nullable=False),
    ]
)
"""What a person decided to go on without: records of ``log_partition`` from
``from_offset`` to before ``to_offset`` (null: nobody knows), ``resumed_at``
being where loading went on (null: the partition is gone). ``load_seq`` is the
commit from which on that holds."""


@dataclass(frozen=True)
class RawTable:
    """``partition_by`` names the timestamp column whose day partitions it,
    ``sort_by`` the columns by which compaction orders the rows of a file."""

    name: str
    schema: pa.Schema
    partition_by: str | None = None
    sort_by: tuple[str, ...] = ()


_by_list = ("generated_at", "rec_id")

RAW_TABLES = {
    table.name: table
    for table in (
        RawTable(EVENTS, EVENTS_SCHEMA, "occurred_at", ("occurred_at", "event_id")),
        RawTable(ITEMS, ITEMS_SCHEMA, None, ("item_id", "load_seq")),
        RawTable(USERS, USERS_SCHEMA, None, ("user_id", "load_seq")),
        RawTable(DEAD_LETTERS, DEAD_LETTERS_SCHEMA, "ingested_at", ("ingested_at",)),
        RawTable(ACCEPTED_LOSSES, ACCEPTED_LOSSES_SCHEMA, None, ("accepted_at",)),
        RawTable("lists", LISTS_SCHEMA, "generated_at", _by_list),
        RawTable("feature_log", FEATURE_LOG_SCHEMA, "generated_at", _by_list),
        RawTable(
            "feature_log_items",
            FEATURE_LOG_ITEMS_SCHEMA,
            "generated_at",
            ("generated_at", "build_id", "item_id"),
        ),
    )
}
