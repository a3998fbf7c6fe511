"""What the collector answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from litestar.types import ASGIApp

from feedloop.errors import LogUnavailable, PartlyStored
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


class UnstoredEvent(msgspec.Struct, frozen=True):
    """An event that is good and not known to be stored: send it again, with this
    ``event_id``, so that it is stored once whatever became of it."""

    detail: str
    event_id: str
    accepted: bool = False


class UnstoredBatch(msgspec.Struct, frozen=True):
    """A batch of which only what is accepted is known to be stored."""

    detail: str
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


def answer(
    status: int, content: msgspec.Struct, headers: Mapping[str, str] | None = None
) -> ASGIApp:
    return JsonAnswer(_json.encode(content), status, headers)


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


def unstored(error: LogUnavailable, event_id: str) -> ASGIApp:
    """503 for an event that the log did not take."""
    return answer(503, UnstoredEvent(str(error), event_id), RETRY_AFTER)


def unstored_batch(
    error: LogUnavailable, events: Sequence[Accepted | Refused], good: int
) -> ASGIApp:
    """503 for a batch with ``good`` good events that the log did not take all."""
    stored = error.stored if isinstance(error, PartlyStored) else [False] * good
    found = results_of(events, stored, str(error))
    content = UnstoredBatch(str(error), found.results, found.accepted, found.rejected)
    return answer(503, content, RETRY_AFTER)
