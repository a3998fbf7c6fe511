"""From the log's records to rows of the raw tables, or to dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feedloop.contracts.catalogue import Item, User, decode_item, decode_user
from feedloop.contracts.events import DecodedEvent, PromotedContext, decode_event
from feedloop.contracts.lists import RequestSigner
from feedloop.contracts.log import EVENTS, ITEMS, USERS, Record, Records
from feedloop.contracts.seeds import read_event_types
from feedloop.contracts.tables import (
    DEAD_LETTERS_SCHEMA,
    EVENTS_SCHEMA,
    ITEMS_SCHEMA,
    USERS_SCHEMA,
)
from feedloop.errors import InvalidRecord
from feedloop.settings import Settings
from loaders.event_columns import EventColumns
from loaders.instants import instant, usable

Columns = dict[str, list[Any] | pa.Array]


@dataclass(frozen=True)
class Decoded:
    """``rows`` in the stream's schema, ``dead`` in that of dead letters."""

    rows: pa.RecordBatch
    dead: pa.RecordBatch


class Decoder:
    """Decodes the records of one stream.

    ``one`` turns a value and its time into what ``columns`` lays out by name;
    it raises ``InvalidRecord`` for what breaks the contract. ``quick`` takes
    what it can before that.
    """

    def __init__(
        self,
        stream: str,
        schema: pa.Schema,
        one: Callable[[bytes, datetime], Any],
        columns: Callable[[Sequence[Any]], Columns],
        quick: EventColumns | None = None,
    ) -> None:
        self._stream = stream
        self._schema = schema
        self._one = one
        self._columns = columns
        self._quick = quick

    def decode(self, records: Records, load_seq: int) -> Decoded:
        rows: list[pa.RecordBatch] = []
        rest = np.arange(len(records))
        if self._quick is not None:
            columns, taken = self._quick.decode(records.values, records.timestamps_ms)
            columns |= _origin(records, taken, load_seq)
            rows.append(_batch(columns, self._schema))
            rest = np.delete(rest, taken)
        good: list[Any] = []
        kept: list[int] = []
        dead: list[tuple[int, InvalidRecord]] = []
        for position in rest.tolist():
            try:
                good.append(self._decode_one(records[position]))
                kept.append(position)
            except InvalidRecord as error:
                dead.append((position, error))
        if good or not rows:
            columns = self._columns(good) | _origin(records, kept, load_seq)
            rows.append(_batch(columns, self._schema))
        return Decoded(
            pa.concat_batches(rows),
            _batch(self._dead_columns(records, dead, load_seq), DEAD_LETTERS_SCHEMA),
        )

    def _decode_one(self, record: Record) -> Any:
        at = instant(record.timestamp_ms)
        if at is None:
            raise InvalidRecord(
                "ingested_at", f"{record.timestamp_ms} ms is no time the log may have"
            )
        if record.value is None:
            raise InvalidRecord("", "a tombstone: deleting is not supported yet")
        try:
            return self._one(record.value, at)
        except RecursionError as error:
            raise InvalidRecord("", "nested too deeply") from error

    def _dead_columns(
        self,
        records: Records,
        dead: Sequence[tuple[int, InvalidRecord]],
        load_seq: int,
    ) -> Columns:
        positions = [position for position, _ in dead]
        columns: Columns = {
            "stream": [self._stream] * len(dead),
            "field": [error.field or None for _, error in dead],
            "reason": [error.reason for _, error in dead],
            "key": [records.keys[position] for position in positions],
            "value": [records.values[position] for position in positions],
        }
        return columns | _origin(records, positions, load_seq)


def decoder(stream: str, settings: Settings) -> Decoder:
    """The decoder of a stream: events, items or users."""
    if stream == ITEMS:
        return Decoder(ITEMS, ITEMS_SCHEMA, lambda v, _: decode_item(v), _catalogue)
    if stream == USERS:
        return Decoder(USERS, USERS_SCHEMA, lambda v, _: decode_user(v), _catalogue)
    event_types = read_event_types(settings.seeds_dir)
    skew = timedelta(seconds=settings.max_clock_skew_s)
    signer = RequestSigner(settings.signing_key)

    def one(value: bytes, at: datetime) -> DecodedEvent:
        return decode_event(value, at, event_types, skew)

    return Decoder(
        EVENTS,
        EVENTS_SCHEMA,
        one,
        lambda events: _event_columns(events, signer),
        EventColumns(event_types, skew, signer),
    )


def _event_columns(decoded: Sequence[DecodedEvent], signer: RequestSigner) -> Columns:
    events = [d.event for d in decoded]
    promoted = [d.promoted for d in decoded]
    columns: Columns = {
        "event_id": [e.event_id for e in events],
        "user_id": [e.user_id for e in events],
        "item_id": [e.item_id for e in events],
        "event_type": [e.event_type for e in events],
        "occurred_at": [e.occurred_at for e in events],
        "event_value": [e.event_value for e in events],
        "context": [d.context for d in decoded],
        "rec_id": [
            signer.verify(p.request_id, e.user_id) if p.request_id else None
            for e, p in zip(events, promoted, strict=True)
        ],
    }
    for name in PromotedContext.__struct_fields__:
        columns[name] = [getattr(p, name) for p in promoted]
    return columns


def _catalogue(records: Sequence[Item | User]) -> Columns:
    if not records:
        return {}
    columns: Columns = {
        name: [getattr(record, name) for record in records]
        for name in type(records[0]).__struct_fields__
    }
    columns["metadata"] = [_text(record.metadata) for record in records]
    return columns


def _text(raw: msgspec.Raw) -> str:
    return str(memoryview(raw), "utf-8")


def _origin(
    records: Records, positions: Sequence[int] | NDArray[np.intp], load_seq: int
) -> Columns:
    chosen = np.asarray(positions, np.intp)
    # the log's own time, never the wall clock: a replay must be identical
    times = records.timestamps_ms[chosen]
    times_us = np.where(usable(times), times, 0) * 1000
    return {
        "ingested_at": pa.array(times_us).cast(pa.timestamp("us", "UTC")),
        "log_partition": pa.array(records.partitions[chosen]),
        "log_offset": pa.array(records.offsets[chosen]),
        "load_seq": pa.array(np.full(len(chosen), load_seq, np.int64)),
    }


def _batch(columns: Columns, schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for field in schema:
        column = columns.get(field.name, [])
        is_array = isinstance(column, pa.Array)
        arrays.append(column if is_array else pa.array(column, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
