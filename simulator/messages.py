"""A session as the app reports it: the events that go to ``POST /events``, and
what a broken app sends instead."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec
import numpy as np

from simulator.choice import follow_up
from simulator.world import Floats

SESSION_S = 895
"""No event of a session is later than this after its start."""

Event = dict[str, Any]


class Session:
    """The events of one visit, in the order in which they are reported.

    ``clicks`` are the item rows that were clicked; ``due_s`` is when the phone
    sends them, in seconds from the first midnight. Ids follow from ``name``.
    """

    def __init__(
        self, name: str, person: int, user_id: str, device: str, start: datetime
    ) -> None:
        self.person = person
        self.due_s = 0.0
        self.sent_twice = False
        self.events: list[Event] = []
        self.clicks: list[int] = []
        self._name = name
        self._user_id = user_id
        self._start = start
        self._context = {"session_id": str(seeded_uuid(name)), "device": device}

    def report(
        self,
        event_type: str,
        item_id: str,
        after_s: float,
        context: Event,
        event_value: float | None = None,
    ) -> None:
        """One event, ``after_s`` seconds after the session's start."""
        at = self._start + timedelta(seconds=min(after_s, SESSION_S))
        event: Event = {
            "event_id": str(seeded_uuid(f"{self._name}/{len(self.events)}")),
            "user_id": self._user_id,
            "item_id": item_id,
            "event_type": event_type,
            "occurred_at": at.isoformat(),
            "context": self._context | context,
        }
        if event_value is not None:
            event["event_value"] = event_value
        self.events.append(event)

    def engage(
        self,
        item: int,
        item_id: str,
        price: float,
        after_s: float,
        context: Event,
        appeal: float,
        uniform: Floats,
    ) -> None:
        """A click, the view with its dwell, and what may follow them."""
        self.clicks.append(item)
        after = follow_up(np.array([appeal]), uniform[None])
        dwell_ms = int(after.dwell_ms[0])
        left_s = after_s + 1 + dwell_ms / 1000
        self.report("click", item_id, after_s, context)
        viewed = context | {"dwell_time_ms": dwell_ms}
        self.report("view", item_id, after_s + 1, viewed)
        if after.like[0]:
            self.report("like", item_id, left_s, context)
        if after.save[0]:
            self.report("save", item_id, left_s + 1, context)
        if after.rating[0]:
            stars = float(after.rating[0])
            self.report("rating", item_id, left_s + 2, context, stars)
        if after.purchase[0]:
            self.report("purchase", item_id, left_s + 3, context, price)


def seeded_uuid(name: str) -> uuid.UUID:
    """A UUID (of version 4's form) that follows from ``name``."""
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return uuid.UUID(bytes=digest, version=4)


# --- rubbish -----------------------------------------------------------------


def _without_item(event: Event) -> bytes:
    return msgspec.json.encode({k: v for k, v in event.items() if k != "item_id"})


def _unknown_type(event: Event) -> bytes:
    return msgspec.json.encode(event | {"event_type": "telepathy"})


def _no_time(event: Event) -> bytes:
    return msgspec.json.encode(event | {"occurred_at": "half past nine"})


def _position_below_zero(event: Event) -> bytes:
    return msgspec.json.encode(event | {"context": {"page_position": -1}})


def _from_the_future(event: Event) -> bytes:
    return msgspec.json.encode(event | {"occurred_at": "2999-01-01T00:00:00Z"})


def _value_in_words(event: Event) -> bytes:
    return msgspec.json.encode(event | {"event_value": "a lot"})


def _torn(event: Event) -> bytes:
    body = msgspec.json.encode(event)
    return body[: len(body) // 2]


RUBBISH: tuple[Callable[[Event], bytes], ...] = (
    _without_item,
    _unknown_type,
    _no_time,
    _position_below_zero,
    _from_the_future,
    _value_in_words,
    _torn,
)
"""Ways to spoil a good event, none of which the collector may accept."""
