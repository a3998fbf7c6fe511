"""Events decoded a column at a time: quickly, or not at all.

What is taken here ``decode_event`` would take, with the same values; a test
holds that. Whatever looks unusual is left to it, so that every bad message gets
a reason of its own and each rule is explained in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feedloop.contracts.events import (
    CONTEXT_BYTES,
    EARLIEST,
    ID_BYTES,
    Event,
    PromotedContext,
)
from feedloop.contracts.lists import RequestSigner
from feedloop.contracts.tables import EVENTS_SCHEMA
from loaders.instants import EPOCH, usable

IDS = ("event_id", "user_id", "item_id")
# A response's id comes again with each of its impressions and outcomes.
REQUESTS_KEPT = 1 << 16
# How clients write an instant, nearly all of them. That a month has the day is
# checked apart.
PLAIN_INSTANT = (
    r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
    r"T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?"
    r"(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$"
)
MICROSECOND = timedelta(microseconds=1)
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)

_Decode = Callable[[Any], Any]
_instant = pa.timestamp("us", "UTC")


class EventColumns:
    """Decodes events of the types ``event_types``."""

    def __init__(
        self,
        event_types: Iterable[str],
        max_clock_skew: timedelta,
        signer: RequestSigner,
    ) -> None:
        self._event_types = pa.array(event_types, pa.string())
        self._skew_us = max_clock_skew // MICROSECOND
        self._rec_id = lru_cache(REQUESTS_KEPT)(signer.verify)
        # The instants stay text, which Arrow parses all at once.
        fields = [
            (field.name, str if field.name == "occurred_at" else field.type)
            if field.required
            else (field.name, field.type, field.default)
            for field in msgspec.structs.fields(Event)
        ]
        text_event = msgspec.defstruct(
            "TextEvent", fields, frozen=True, forbid_unknown_fields=True, gc=False
        )
        self._event: _Decode = msgspec.json.Decoder(text_event).decode
        self._promoted: _Decode = msgspec.json.Decoder(PromotedContext).decode

    def decode(
        self, values: Sequence[bytes | None], timestamps_ms: NDArray[np.int64]
    ) -> tuple[dict[str, pa.Array], NDArray[np.intp]]:
        """The columns of the events that could be taken, and their positions.

        ``timestamps_ms`` is the log's time of each value.
        """
        taken = np.arange(len(values))
        try:
            columns = self._columns(values)
        except (*UNDECODABLE, pa.ArrowInvalid):
            taken = np.flatnonzero([self._decodes(value) for value in values])
            columns = self._columns([values[position] for position in taken.tolist()])
        columns["occurred_at"] = _instants(columns["occurred_at"])
        usual = self._usual(columns, timestamps_ms[taken])
        if not usual.all():
            mask = pa.array(usual)
            columns = {name: column.filter(mask) for name, column in columns.items()}
            taken = taken[usual]
        return columns, taken

    def _columns(self, values: Sequence[bytes | None]) -> dict[str, pa.Array]:
        decode, promote, rec_id = self._event, self._promoted, self._rec_id
        events = [decode(value) for value in values]
        contexts = [bytes(event.context) for event in events]
        promoted = [msgspec.structs.astuple(promote(text)) for text in contexts]
        columns: dict[str, Any] = {
            "event_id": [event.event_id for event in events],
            "user_id": [event.user_id for event in events],
            "item_id": [event.item_id for event in events],
            "event_type": [event.event_type for event in events],
            "occurred_at": [event.occurred_at for event in events],
            "event_value": [event.event_value for event in events],
        }
        for index, name in enumerate(PromotedContext.__struct_fields__):
            columns[name] = [fields[index] for fields in promoted]
        requests = zip(columns["request_id"], columns["user_id"], strict=True)
        columns["rec_id"] = [
            rec_id(request, user) if request else None for request, user in requests
        ]
        arrays = {
            name: pa.array(
                column,
                pa.string()
                if name == "occurred_at"
                else EVENTS_SCHEMA.field(name).type,
            )
            for name, column in columns.items()
        }
        # the cast checks what Raw does not: that it is UTF-8
        arrays["context"] = pa.array(contexts, pa.binary()).cast(pa.string())
        return arrays

    def _decodes(self, value: bytes | None) -> bool:
        try:
            context = self._event(value).context
            self._promoted(context)
            str(memoryview(context), "utf-8")
        except UNDECODABLE:
            return False
        return True

    def _usual(
        self, columns: dict[str, pa.Array], timestamps_ms: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        in_log = usable(timestamps_ms)
        logged_us = np.where(in_log, timestamps_ms, 0) * 1000
        occurred = columns["occurred_at"]
        occurred_us = occurred.fill_null(0).cast(pa.int64()).to_numpy()
        usual = (
            in_log
            & (occurred_us >= (EARLIEST - EPOCH) // MICROSECOND)
            & (occurred_us <= logged_us + self._skew_us)
            & _mask(pc.is_in(columns["event_type"], value_set=self._event_types))
            & _mask(pc.is_finite(columns["event_value"]).fill_null(True))
            & (_lengths(columns["context"]) <= CONTEXT_BYTES)
        )
        for name in IDS:
            usual &= _lengths(columns[name]) <= ID_BYTES
            if not np.frombuffer(columns[name].buffers()[2] or b"", np.uint8).all():
                usual &= ~_mask(pc.match_substring(columns[name], "\x00"))
        result: NDArray[np.bool_] = usual
        return result


def _instants(texts: pa.Array) -> pa.Array:
    """The instants, null where a text is not written the plain way."""
    plain = pc.match_substring_regex(texts, PLAIN_INSTANT)
    texts = pc.if_else(plain, texts, None)
    try:
        return texts.cast(_instant)
    except pa.ArrowInvalid:
        days = pc.utf8_slice_codeunits(texts, 0, 10).dictionary_encode()
        exist = pa.array(map(_is_day, days.dictionary.to_pylist()), pa.bool_())
        return pc.if_else(exist.take(days.indices), texts, None).cast(_instant)


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _lengths(texts: pa.Array) -> NDArray[np.int32]:
    lengths: NDArray[np.int32] = pc.binary_length(texts).to_numpy()
    return lengths


def _mask(booleans: pa.Array) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = booleans.to_numpy(zero_copy_only=False)
    return mask
