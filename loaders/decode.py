"""From the log's records to rows of the raw tables, or to dead letters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pyarrow as pa

from feedloop.contracts.catalogue import Item, User, decode_item, decode_user
from feedloop.contracts.events import DecodedEvent, PromotedContext, decode_event
from feedloop.contracts.lists import RequestSigner
from feedloop.contracts.log import EVENTS, ITEMS, USERS, Record
from feedloop.contracts.seeds import read_event_types
from feedloop.contracts.tables import (
    DEAD_LETTERS_SCHEMA,
    EVENTS_SCHEMA,
    ITEMS_SCHEMA,
    USERS_SCHEMA,
)
from feedloop.errors import InvalidRecord
from feedloop.settings import Settings
from loaders.instants import LAST_MS, instant

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Decoded:
    """``rows`` in the stream's schema, ``dead`` in that of dead letters."""

    rows: pa.RecordBatch
    dead: pa.RecordBatch


class Decoder:
    """Decodes the records of one stream.

    ``one`` turns a value and its time into what ``columns`` lays out by name;
    it raises ``InvalidRecord`` for what breaks the contract.
    """

    def __init__(
        self,
        stream: str,
        schema: pa.Schema,
        one: Callable[[bytes, datetime], Any],
        columns: Callable[[Sequence[Any]], Columns],
    ) -> None:
        self._stream = stream
        self._schema = schema
        self._one = one
        self._columns = columns

    def decode(self, records: Iterable[Record], load_seq: int) -> Decoded:
        good: list[Any] = []
        good_records: list[Record] = []
        dead: list[tuple[Record, InvalidRecord]] = []
        for record in records:
            try:
                good.append(self._decode_one(record))
                good_records.append(record)
            except InvalidRecord as error:
                dead.append((record, error))
        columns = self._columns(good) | _origin(good_records, load_seq)
        return Decoded(
            _batch(columns, self._schema),
            _batch(self._dead_columns(dead, load_seq), DEAD_LETTERS_SCHEMA),
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
        self, dead: Sequence[tuple[Record, InvalidRecord]], load_seq: int
    ) -> Columns:
        records = [record for record, _ in dead]
        columns: Columns = {
            "stream": [self._stream] * len(dead),
            "field": [error.field or None for _, error in dead],
            "reason": [error.reason for _, error in dead],
            "key": [record.key for record in records],
            "value": [record.value for record in records],
        }
        return columns | _origin(records, load_seq)


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
        EVENTS, EVENTS_SCHEMA, one, lambda events: _event_columns(events, signer)
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


def _origin(records: Sequence[Record], load_seq: int) -> Columns:
    return {
        # the log's own time, never the wall clock: a replay must be identical
        "ingested_at": [_usable_ms(record) * 1000 for record in records],
        "log_partition": [record.partition for record in records],
        "log_offset": [record.offset for record in records],
        "load_seq": [load_seq] * len(records),
    }


def _usable_ms(record: Record) -> int:
    return record.timestamp_ms if 0 <= record.timestamp_ms <= LAST_MS else 0


def _batch(columns: Mapping[str, list[Any]], schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for field in schema:
        values = columns.get(field.name, [])
        if field.name == "ingested_at":  # from microseconds, three times as fast
            arrays.append(pa.array(values, pa.int64()).cast(field.type))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
