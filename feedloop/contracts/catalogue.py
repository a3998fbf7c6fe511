"""The item and user contracts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from feedloop.contracts.events import Id, Text, field_and_reason
from feedloop.errors import InvalidRecord

Instant = Annotated[datetime, Meta(tz=True)]
METADATA_BYTES = 16_384


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    item_id: Id
    category: Text
    published_at: Instant
    is_active: bool = True
    title: Annotated[str, Meta(max_length=2000)] = ""
    description: Annotated[str, Meta(max_length=20_000)] = ""
    tags: Annotated[list[Text], Meta(max_length=100)] = []
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


class User(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user_id: Id
    created_at: Instant
    country: Text | None = None
    segment: Text | None = None
    device: Text | None = None
    referral_source: Text | None = None
    declared_preferences: Annotated[list[Text], Meta(max_length=100)] = []
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


_item = msgspec.json.Decoder(Item)
_user = msgspec.json.Decoder(User)
_Record = TypeVar("_Record", Item, User)


def decode_item(value: bytes | memoryview) -> Item:
    """The item in ``value``, a JSON object, or ``InvalidRecord``."""
    return _decode(value, _item)


def decode_user(value: bytes | memoryview) -> User:
    """The user in ``value``, a JSON object, or ``InvalidRecord``."""
    return _decode(value, _user)


def _decode(
    value: bytes | memoryview, decoder: msgspec.json.Decoder[_Record]
) -> _Record:
    try:
        record = decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRecord(*field_and_reason(error)) from error
    if len(record.metadata) > METADATA_BYTES:
        raise InvalidRecord("metadata", f"larger than {METADATA_BYTES} bytes")
    try:
        str(memoryview(record.metadata), "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRecord("metadata", "not UTF-8") from error
    return record
