"""The event contract: what the collector accepts and the loader stores.

One decoder serves both, so that an event the collector answered with 202 can't
become a dead letter for its shape, and a message that another producer put
into the log is held to the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from feedloop.contracts.seeds import EventType
from feedloop.errors import InvalidEvent

Id = Annotated[str, Meta(min_length=1, max_length=128)]
Text = Annotated[str, Meta(max_length=512)]

ID_BYTES = 128
CONTEXT_BYTES = 16_384
EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)

CONTEXT_ALIASES: Mapping[str, str] = {"position": "page_position"}
SURFACE_ALIASES: Mapping[str, str] = {"homepage_feed": "homepage"}


class PromotedContext(msgspec.Struct, frozen=True, gc=False):
    """The context keys that have a typed column of their own in raw.events.

    Adding a field here adds the column; old partitions read it as null.
    """

    session_id: Text | None = None
    device: Text | None = None
    surface: Text | None = None
    page_position: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    request_id: Text | None = None
    model_version: Text | None = None
    dwell_time_ms: Annotated[int, Meta(ge=0, le=2**53)] | None = None


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event as it stands in the log, aliases resolved."""

    event_id: Id
    user_id: Id
    item_id: Id
    event_type: Id
    occurred_at: Annotated[datetime, Meta(tz=True)]
    event_value: float | None = None
    context: msgspec.Raw = msgspec.Raw(b"{}")


@dataclass(frozen=True)
class DecodedEvent:
    """An event that keeps the contract.

    ``context`` is its JSON text, every key kept; ``promoted`` its typed part.
    """

    event: Event
    context: str
    promoted: PromotedContext


_event = msgspec.json.Decoder(Event)
_promoted = msgspec.json.Decoder(PromotedContext)
_field = re.compile(r"`\$\.?([\w.\[\]]*)`$|field `([^`]*)`")


def field_and_reason(error: Exception) -> tuple[str, str]:
    """Which field an error of msgspec speaks of ("": the whole), and why."""
    text = str(error)
    found = _field.search(text)
    field = (found[1] or found[2] or "") if found else ""
    return field, text.split(" - at ", maxsplit=1)[0]


def decode_event(
    value: bytes | memoryview,
    ingested_at: datetime,
    event_types: Mapping[str, EventType],
    max_clock_skew: timedelta,
) -> DecodedEvent:
    """The event in ``value``, a JSON object.

    ``ingested_at`` is the log's instant for it. Raises ``InvalidEvent`` with
    the field and the reason.
    """
    try:
        event = _event.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidEvent(*field_and_reason(error)) from error
    for name in ("event_id", "user_id", "item_id"):
        text = getattr(event, name)
        if not text.isascii() and len(text.encode(errors="replace")) > ID_BYTES:
            raise InvalidEvent(name, f"longer than {ID_BYTES} bytes")
        if "\x00" in text:
            raise InvalidEvent(name, "contains a null character")
    if event.event_type not in event_types:
        raise InvalidEvent(
            "event_type",
            f"unknown type {event.event_type!r}; known are {', '.join(event_types)}",
        )
    if event.occurred_at > ingested_at + max_clock_skew:
        raise InvalidEvent(
            "occurred_at",
            f"{event.occurred_at.isoformat()} lies ahead of the log's clock "
            f"({ingested_at.isoformat()}) by more than {max_clock_skew}",
        )
    if event.occurred_at < EARLIEST:
        raise InvalidEvent("occurred_at", f"earlier than {EARLIEST.date()}")
    if event.event_value is not None and not abs(event.event_value) < float("inf"):
        raise InvalidEvent("event_value", "not a finite number")
    if len(event.context) > CONTEXT_BYTES:
        raise InvalidEvent("context", f"larger than {CONTEXT_BYTES} bytes")
    try:
        # Raw skips UTF-8 checks, so this is where they happen.
        context = str(memoryview(event.context), "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidEvent("context", "not UTF-8") from error
    if context == "null":
        context = "{}"
    try:
        promoted = _promoted.decode(context)
    except msgspec.DecodeError as error:
        field, reason = field_and_reason(error)
        raise InvalidEvent(f"context.{field}".rstrip("."), reason) from error
    return DecodedEvent(event, context, promoted)


def normalise(event: Mapping[str, Any]) -> dict[str, Any]:
    """A client's event with aliases resolved and unset fields left out.

    The collector applies it before the event goes to the log.
    """
    known = {name: value for name, value in event.items() if value is not None}
    context = known.get("context")
    if isinstance(context, dict):
        if not CONTEXT_ALIASES.keys().isdisjoint(context):
            context = {CONTEXT_ALIASES.get(k, k): v for k, v in context.items()}
        surface = context.get("surface")
        if isinstance(surface, str) and surface in SURFACE_ALIASES:
            context = context | {"surface": SURFACE_ALIASES[surface]}
        known["context"] = context
    return known
