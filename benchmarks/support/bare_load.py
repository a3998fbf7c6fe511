"""The limit of the loader: drain, decode, Arrow and append, and nothing else.

It has the client, the parsing of record batches and the columns of the loader,
and none of its checks: no offsets in the commit, no bounds, no dead letters, no
signatures, no deduplication.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition
from pyiceberg.catalog import load_catalog
from pyiceberg.transforms import DayTransform

from feedloop.contracts.events import PromotedContext
from feedloop.contracts.log import Records
from feedloop.contracts.tables import EVENTS_SCHEMA
from loaders.iceberg import PROPERTIES
from loaders.kafka_fetch import install


class _Event(msgspec.Struct, gc=False):
    event_id: str
    user_id: str
    item_id: str
    event_type: str
    occurred_at: str
    event_value: float | None = None
    context: msgspec.Raw = msgspec.Raw(b"{}")


_event = msgspec.json.Decoder(_Event).decode
_promoted = msgspec.json.Decoder(PromotedContext).decode


def load(bootstrap: str, topic: str, partitions: int, home: Path, at_once: int) -> int:
    """Load the whole topic ``at_once`` events a commit; how many there were."""
    home.mkdir(parents=True)
    catalog = load_catalog(
        "bare", uri=f"sqlite:///{home}/catalog.db", warehouse=home.as_uri()
    )
    catalog.create_namespace("raw")
    properties = PROPERTIES
    table = catalog.create_table("raw.events", EVENTS_SCHEMA, properties=properties)
    with table.update_spec() as spec:
        spec.add_field("occurred_at", DayTransform(), "occurred_at_day")
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        metrics_enabled=False,
    )
    if not install(consumer):
        raise RuntimeError("The limit is measured with the pinned kafka-python only.")
    places = [TopicPartition(topic, number) for number in range(partitions)]
    consumer.assign(places)
    left: int = sum(consumer.end_offsets(places).values())
    for place in places:
        consumer.seek(place, 0)
    total = left
    waiting: list[pa.RecordBatch] = []
    rows = 0
    gc.disable()
    while left:
        for found in consumer.poll(1000, max_records=8).values():
            for records in found:
                waiting.append(_batch(records))
                rows += len(records)
                left -= len(records)
        if rows >= at_once or not left:
            table.append(pa.Table.from_batches(waiting))
            waiting, rows = [], 0
    gc.enable()
    consumer.close()
    return total


def _batch(records: Records) -> pa.RecordBatch:
    events = [_event(value or b"") for value in records.values]
    contexts = [bytes(event.context) for event in events]
    promoted = [msgspec.structs.astuple(_promoted(text)) for text in contexts]
    columns: dict[str, Any] = {
        "event_id": [event.event_id for event in events],
        "user_id": [event.user_id for event in events],
        "item_id": [event.item_id for event in events],
        "event_type": [event.event_type for event in events],
        "occurred_at": pa.array([event.occurred_at for event in events]),
        "event_value": [event.event_value for event in events],
        "context": pa.array(contexts, pa.binary()),
        "rec_id": pa.nulls(len(events)),
        "ingested_at": pa.array(records.timestamps_ms * 1000),
        "log_partition": pa.array(records.partitions),
        "log_offset": pa.array(records.offsets),
        "load_seq": pa.array(np.ones(len(events), np.int64)),
    }
    for index, name in enumerate(PromotedContext.__struct_fields__):
        columns[name] = [fields[index] for fields in promoted]
    arrays = []
    for field in EVENTS_SCHEMA:
        column = columns[field.name]
        if isinstance(column, list):
            arrays.append(pa.array(column, field.type))
        else:
            arrays.append(column.cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=EVENTS_SCHEMA)
