"""The event contract: what is refused, and that the field is named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedloop.contracts.events import DecodedEvent, decode_event, normalise
from feedloop.contracts.seeds import read_event_types
from feedloop.errors import InvalidEvent

TYPES = read_event_types(Path(__file__).parents[2] / "seeds")
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "event_id": "e1",
    "user_id": "usr_abc123",
    "item_id": "i1",
    "event_type": "click",
    "occurred_at": "2026-01-01T12:00:00+02:00",
}


def decode(value: bytes) -> DecodedEvent:
    return decode_event(value, NOW, TYPES, timedelta(hours=1))


def encode(**changes: Any) -> bytes:
    event = GOOD | changes
    return msgspec.json.encode({k: v for k, v in event.items() if v is not ...})


def test_a_good_event_keeps_its_instant_and_its_unknown_context_keys() -> None:
    context = {"page_position": 3, "theme": {"dark": True}}
    found = decode(encode(context=context, event_value=4.5))
    assert found.event.occurred_at == datetime(2026, 1, 1, 10, tzinfo=UTC)
    assert found.event.event_value == 4.5
    assert found.promoted.page_position == 3
    assert msgspec.json.decode(found.context) == context


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("user_id", {"user_id": ...}),
        ("user_id", {"user_id": 7}),
        ("user_id", {"user_id": ""}),
        ("user_id", {"user_id": "x" * 129}),
        ("item_id", {"item_id": "ü" * 65}),
        ("item_id", {"item_id": "a\x00b"}),
        ("event_type", {"event_type": "teleport"}),
        ("occurred_at", {"occurred_at": "yesterday"}),
        ("occurred_at", {"occurred_at": "2026-01-01T12:00:00"}),
        ("occurred_at", {"occurred_at": "2026-01-01T13:00:01Z"}),
        ("occurred_at", {"occurred_at": "1970-01-01T00:00:00Z"}),
        ("event_value", {"event_value": "five"}),
        ("context.page_position", {"context": {"page_position": -1}}),
        ("context.dwell_time_ms", {"context": {"dwell_time_ms": "long"}}),
        ("context", {"context": {"note": "x" * 20_000}}),
        ("dwell", {"dwell": 1}),
    ],
)
def test_a_bad_event_names_its_field(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent) as caught:
        decode(encode(**changes))
    assert caught.value.field == field
    assert caught.value.reason


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        encode(event_value=1).replace(b":1,", b":1e999,").replace(b":1}", b":1e999}"),
        encode(context={"a": "b"}).replace(b'"b"', b'"\xff"'),
        encode(user_id="x").replace(b'"x"', b'"\xff"'),
    ],
)
def test_rubbish_is_refused_and_never_crashes(value: bytes) -> None:
    with pytest.raises(InvalidEvent):
        decode(value)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_event_or_refused(value: bytes) -> None:
    try:
        decode(value)
    except InvalidEvent as error:
        assert error.reason


@given(
    st.text(min_size=1, max_size=128).filter(
        lambda text: "\x00" not in text and len(text.encode(errors="replace")) <= 128
    )
)
def test_any_short_text_is_an_id(text: str) -> None:
    encodable = text.encode(errors="ignore").decode()
    if encodable:
        assert decode(encode(user_id=encodable)).event.user_id == encodable


def test_aliases_are_resolved_and_null_fields_left_out() -> None:
    event = GOOD | {
        "event_value": None,
        "context": {"position": 2, "surface": "homepage_feed", "position_x": 1},
    }
    found = decode(msgspec.json.encode(normalise(event)))
    assert found.promoted.page_position == 2
    assert found.promoted.surface == "homepage"
    assert "event_value" not in normalise(event)
