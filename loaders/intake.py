"""From a request's JSON to messages for the log: validated, canonical, named.

What is accepted here is decoded by the very code that the loader uses, against
the time that the log will give it, so that it can't become a dead letter.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from feedloop.clock import Clock
from feedloop.contracts.catalogue import decode_item, decode_user
from feedloop.contracts.events import decode_event, normalise
from feedloop.contracts.log import Message
from feedloop.contracts.seeds import read_event_types
from feedloop.errors import InvalidRecord
from feedloop.settings import Settings

IDEMPOTENT = uuid.uuid5(uuid.NAMESPACE_URL, "feedloop/idempotency-key")
MOST_NESTED = 64


class Accepted(NamedTuple):
    event_id: str
    message: Message


class Refused(NamedTuple):
    """``event_id`` is None where the event brought none."""

    event_id: str | None
    field: str
    reason: str


class Intake:
    """Checks what clients send."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._event_types = read_event_types(settings.seeds_dir)
        self._skew = timedelta(seconds=settings.max_clock_skew_s)
        self._clock = clock

    def now(self) -> datetime:
        """The clock's time as a log keeps it, in milliseconds."""
        now = self._clock.now()
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    def event(
        self,
        sent: Any,
        now: datetime,
        owner: str,
        idempotency_key: str | None,
        index: int,
    ) -> Accepted | Refused:
        """One event of a request, the ``index``-th of its batch.

        ``now``: what the log will say of when it came. Without an ``event_id``
        the event gets one: always the same one for the same idempotency key of
        the same owner, else a random one.
        """
        event_id: str | None = None
        try:
            event = normalise(_object(sent))
            brought = event.get("event_id")
            event_id = brought if isinstance(brought, str) else None
            if brought is None:
                event["event_id"] = _event_id(owner, idempotency_key, index)
            value = _canonical(event)
            checked = decode_event(value, now, self._event_types, self._skew).event
        except InvalidRecord as error:
            return Refused(event_id, error.field, error.reason)
        message = Message(checked.user_id, value, now)
        return Accepted(checked.event_id, message)

    def item(self, sent: Any, item_id: str) -> Message:
        """A new version of an item. Raises ``InvalidRecord``."""
        return self._record(sent, "item_id", item_id, decode_item)

    def user(self, sent: Any, user_id: str) -> Message:
        """A new version of a user. Raises ``InvalidRecord``."""
        return self._record(sent, "user_id", user_id, decode_user)

    def _record(
        self, sent: Any, id_field: str, path_id: str, decode: Callable[[bytes], Any]
    ) -> Message:
        record = {name: v for name, v in _object(sent).items() if v is not None}
        if record.setdefault(id_field, path_id) != path_id:
            raise InvalidRecord(
                id_field, f"{record[id_field]!r} is not {path_id!r}, as in the path"
            )
        value = _canonical(record)
        decode(value)
        return Message(path_id, value, self.now())


def _object(sent: Any) -> dict[str, Any]:
    if not isinstance(sent, dict):
        raise InvalidRecord("", "is not a JSON object")
    return sent


def _canonical(record: dict[str, Any]) -> bytes:
    value = msgspec.json.encode(record)
    if value.count(b"[") + value.count(b"{") > MOST_NESTED and _is_deep(record):
        raise InvalidRecord("", f"nested more than {MOST_NESTED} levels deep")
    return value


def _is_deep(value: Any) -> bool:
    """Whether ``value`` is nested so deeply that some reader may give up."""
    level = [value]
    for _ in range(MOST_NESTED):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        level = inner
    return bool(level)


def _event_id(owner: str, idempotency_key: str | None, index: int) -> str:
    if idempotency_key is None:
        return str(uuid.uuid4())
    return str(uuid.uuid5(IDEMPOTENT, f"{owner}\x1f{idempotency_key}\x1f{index}"))
