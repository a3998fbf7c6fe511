"""What the collector's OpenAPI says of request bodies, which it reads itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import msgspec
from litestar.openapi.spec import (
    Example,
    OpenAPIMediaType,
    Operation,
    Parameter,
    RequestBody,
    Schema,
)
from litestar.openapi.spec.enums import OpenAPIType

from feedloop.contracts.catalogue import Item, User
from feedloop.contracts.events import Event, PromotedContext

EVENT = {
    "user_id": "usr_abc123",
    "item_id": "article_42",
    "event_type": "click",
    "occurred_at": "2026-03-01T12:00:00Z",
    "context": {"surface": "homepage", "page_position": 3, "session_id": "s1"},
}
ITEM = {
    "category": "news",
    "published_at": "2026-03-01T06:00:00Z",
    "title": "What happened overnight",
    "tags": ["politics", "europe"],
}
USER = {"created_at": "2026-02-01T00:00:00Z", "country": "BR", "segment": "reader"}


def _schema(kind: type[msgspec.Struct], id_field: str) -> dict[str, Any]:
    """The contract's JSON schema, free JSON as an object, the id not required."""
    fields: list[Any] = []
    for field in msgspec.structs.fields(kind):
        if field.type is msgspec.Raw:
            made: Any = msgspec.field(default_factory=dict)
            fields.append((field.name, dict[str, Any], made))
        elif field.required:
            fields.append((field.name, field.type))
        elif field.default_factory is msgspec.NODEFAULT:
            fields.append((field.name, field.type, field.default))
        else:
            made = msgspec.field(default_factory=field.default_factory)
            fields.append((field.name, field.type, made))
    shown = msgspec.defstruct(kind.__name__, fields, forbid_unknown_fields=True)
    schema: dict[str, Any] = msgspec.json.schema(shown)["$defs"][kind.__name__]
    schema["required"].remove(id_field)
    return schema


def _event_schema() -> dict[str, Any]:
    schema = _schema(Event, id_field="event_id")
    context = msgspec.json.schema(PromotedContext)["$defs"]["PromotedContext"]
    schema["properties"]["context"] = context | {
        "description": "What else is known; keys beyond these are kept."
    }
    return schema


def _body(schema: dict[str, Any], examples: dict[str, Any]) -> RequestBody:
    media_type = OpenAPIMediaType(
        schema=cast(Any, schema),
        examples={name: Example(value=value) for name, value in examples.items()},
    )
    return RequestBody(content={"application/json": media_type}, required=True)


@dataclass
class EventsOperation(Operation):
    def __post_init__(self) -> None:
        event = _event_schema()
        batch = {"type": "array", "items": event, "minItems": 1}
        wrapped = {"type": "object", "properties": {"events": batch}}
        self.request_body = _body(
            {"oneOf": [event, batch, wrapped]},
            {"one": EVENT, "batch": [EVENT, EVENT | {"event_type": "view"}]},
        )
        lines = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING))
        self.request_body.content["application/x-ndjson"] = lines
        self.parameters = [
            Parameter(
                name="Idempotency-Key",
                param_in="header",
                description="Events without an event_id get the same ones again "
                "when the request is repeated with the same key.",
                schema=Schema(type=OpenAPIType.STRING),
            )
        ]


@dataclass
class ItemOperation(Operation):
    def __post_init__(self) -> None:
        self.request_body = _body(_schema(Item, id_field="item_id"), {"item": ITEM})


@dataclass
class UserOperation(Operation):
    def __post_init__(self) -> None:
        self.request_body = _body(_schema(User, id_field="user_id"), {"user": USER})
