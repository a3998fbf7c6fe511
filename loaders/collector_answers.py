"""What the collector answers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from litestar.types import ASGIApp

from feedloop.errors import LogUnavailable
from feedloop.http import RETRY_AFTER, JsonAnswer
from loaders.intake import Accepted, Refused

_json = msgspec.json.Encoder()


class AcceptedEvent(msgspec.Struct, frozen=True):
    """What the log has. ``event_id`` is the client's own where it sent one."""

    event_id: str
    accepted: bool = True


class EventResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one event of a batch: why, where it was not accepted.
    ``retry``: nothing is wrong with it; send it again, with this ``event_id``."""

    event_id: str | None
    accepted: bool
    field: str | None = None
    reason: str | None = None
    retry: bool = False


class BatchResult(msgspec.Struct, frozen=True):
    """One result an event, in the order in which they were sent."""

    results: list[EventResult]
    accepted: int
    rejected: int


class AcceptedItem(msgspec.Struct, frozen=True):
    item_id: str
    accepted: bool = True


class AcceptedUser(msgspec.Struct, frozen=True):
    user_id: str
    accepted: bool = True


class Problem(msgspec.Struct, frozen=True):
    """Why a request was refused; ``field`` where it is one field's fault."""

    detail: str
    field: str | msgspec.UnsetType = msgspec.UNSET
    reason: str | msgspec.UnsetType = msgspec.UNSET


def results_of(
    events: Sequence[Accepted | Refused], stored: Sequence[bool], away: str = ""
) -> BatchResult:
    """What became of ``events``; of the good ones among them, in their order,
    ``stored`` says whether the log has them, and ``away`` why it hasn't."""
    known = iter(stored)
    results = []
    for event in events:
        if isinstance(event, Refused):
            field, reason = event.field, event.reason
            results.append(EventResult(event.event_id, False, field, reason))
        elif next(known):
            results.append(EventResult(event.event_id, True))
        else:
            results.append(EventResult(event.event_id, False, None, away, True))
    accepted = sum(stored)
    return BatchResult(results, accepted, len(events) - accepted)


def answer(status: int, content: msgspec.Struct) -> ASGIApp:
    return JsonAnswer(_json.encode(content), status)


def refusal(
    status: int,
    detail: str,
    field: str | msgspec.UnsetType = msgspec.UNSET,
    reason: str | msgspec.UnsetType = msgspec.UNSET,
) -> ASGIApp:
    return answer(status, Problem(detail, field, reason))


def broken(field: str, reason: str) -> ASGIApp:
    """422 for what breaks its contract."""
    return refusal(422, f"{field}: {reason}" if field else reason, field, reason)


def unavailable(error: LogUnavailable, content: msgspec.Struct) -> ASGIApp:
    """503 with what is known: the ids under which to send again what."""
    body = {"detail": str(error)} | msgspec.structs.asdict(content)
    return JsonAnswer(_json.encode(body), 503, RETRY_AFTER)
