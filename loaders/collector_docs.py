"""What the collector's requests look like, for its OpenAPI document.

Bodies are decoded by the contracts and not by the framework, so that the
schemas are made from the contracts here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
from litestar.openapi.spec import (
    Example,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
)

from feedloop.contracts.catalogue import Item, User
from feedloop.contracts.events import Event, PromotedContext

EVENT_EXAMPLE: dict[str, Any] = {
    "event_id": "0b0c5c4e-6f6b-4a53-9d5b-3f1f6f0a9a10",
    "user_id": "usr_abc123",
    "item_id": "item_42",
    "event_type": "click",
    "occurred_at": "2026-01-08T09:00:00Z",
    "context": {"surface": "homepage", "page_position": 3},
}
ITEM_EXAMPLE: dict[str, Any] = {
    "category": "news",
    "published_at": "2026-01-08T06:00:00Z",
    "title": "A title",
    "tags": ["local"],
}
USER_EXAMPLE: dict[str, Any] = {
    "created_at": "2026-01-08T06:00:00Z",
    "country": "PT",
    "device": "ios",
}


def _schema(contract: type[msgspec.Struct], optional: str) -> Schema:
    """The contract as a JSON schema; ``optional`` may be left out."""
    described = msgspec.json.schema(contract)["$defs"][contract.__name__]
    properties = {
        name: Schema(
            description=entry.get("description"),
            type=OpenAPIType(entry["type"]) if "type" in entry else None,
            format=entry.get("format"),
            min_length=entry.get("minLength"),
            max_length=entry.get("maxLength"),
        )
        for name, entry in described["properties"].items()
    }
    required = [name for name in described["required"] if name != optional]
    return Schema(
        type=OpenAPIType.OBJECT, properties=dict(properties), required=required
    )


def _event_schema() -> Schema:
    schema = _schema(Event, "event_id")
    promoted = ", ".join(PromotedContext.__struct_fields__)
    properties = dict(schema.properties or {})
    properties["context"] = Schema(
        type=OpenAPIType.OBJECT,
        description=f"Any keys; these have columns of their own: {promoted}.",
    )
    schema.properties = properties
    return schema


def _body(schema: Schema, examples: dict[str, Any]) -> RequestBody:
    return RequestBody(
        required=True,
        content={
            "application/json": OpenAPIMediaType(
                schema=schema,
                examples={
                    name: Example(summary=name, value=value)
                    for name, value in examples.items()
                },
            )
        },
    )


def _events_body() -> RequestBody:
    event = _event_schema()
    return _body(
        Schema(
            one_of=[
                event,
                Schema(type=OpenAPIType.ARRAY, items=event),
                Schema(
                    type=OpenAPIType.OBJECT,
                    properties={"events": Schema(type=OpenAPIType.ARRAY, items=event)},
                ),
            ]
        ),
        {"one event": EVENT_EXAMPLE, "a batch": {"events": [EVENT_EXAMPLE]}},
    )


def _item_body() -> RequestBody:
    return _body(_schema(Item, "item_id"), {"an item": ITEM_EXAMPLE})


def _user_body() -> RequestBody:
    return _body(_schema(User, "user_id"), {"a user": USER_EXAMPLE})


@dataclass
class EventsOperation(Operation):
    request_body: Any = field(default_factory=_events_body)


@dataclass
class ItemOperation(Operation):
    request_body: Any = field(default_factory=_item_body)


@dataclass
class UserOperation(Operation):
    request_body: Any = field(default_factory=_user_body)
