"""The collector: events, items and users come in over HTTP.

A 202 is sent only after the log has the message; when it can't be stored the
answer is a 503, and sending again stores it once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
from litestar import Litestar, MediaType, Request, Response, get, post, put
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from feedloop import __version__
from feedloop.clock import Clock
from feedloop.contracts.log import EVENTS, ITEMS, USERS, EventLog, Message
from feedloop.errors import InvalidRecord, LogUnavailable
from feedloop.http import (
    EXCEPTION_HANDLERS,
    SECURITY,
    SECURITY_COMPONENTS,
    Access,
    Caller,
    HttpMetrics,
    Right,
    path_id,
    problem,
)
from feedloop.settings import Settings
from feedloop.telemetry import log_event
from loaders.bodies import read_json
from loaders.collector_docs import EventsOperation, ItemOperation, UserOperation
from loaders.group_append import GroupAppend
from loaders.intake import Accepted, Intake, Refused
from loaders.log import create_topics


class AcceptedEvent(msgspec.Struct, frozen=True):
    """What the log has. ``event_id`` is the client's own where it sent one."""

    event_id: str
    accepted: bool = True


class EventResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one event of a batch; the last two where it was refused."""

    event_id: str | None
    accepted: bool
    field: str | None = None
    reason: str | None = None


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
    field: str = ""
    reason: str = ""


_REFUSALS = {
    400: ResponseSpec(Problem, description="The body is not JSON"),
    401: ResponseSpec(Problem, description="The API key is missing"),
    403: ResponseSpec(Problem, description="The API key does not carry the right"),
    413: ResponseSpec(Problem, description="The body or the batch is too large"),
    415: ResponseSpec(Problem, description="The body's encoding is not gzip"),
    422: ResponseSpec(Problem, description="It breaks the contract; names the field"),
    429: ResponseSpec(Problem, description="Too many requests; see Retry-After"),
    503: ResponseSpec(Problem, description="The log is away; see Retry-After"),
}


class _Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._stored = Counter(
            "feedloop_messages_stored",
            "Messages that the log has",
            ("topic",),
            registry=registry,
        )
        self._at_once = Histogram(
            "feedloop_append_messages",
            "Messages that went to the log in one append",
            buckets=(1, 3, 10, 30, 100, 300, 1000, 3000, 10000),
            registry=registry,
        )
        self.refused = Counter(
            "feedloop_messages_refused",
            "Events, items and users that break their contract",
            ("stream",),
            registry=registry,
        )
        self.waiting = Gauge(
            "feedloop_messages_waiting",
            "Messages that were sent and are not stored yet",
            registry=registry,
        )

    def appended(self, messages: int, topic: str) -> None:
        self._stored.labels(topic).inc(messages)
        self._at_once.observe(messages)


class _Collector:
    """From what was sent to an answer, once it is stored."""

    def __init__(
        self, settings: Settings, clock: Clock, log: EventLog, metrics: _Metrics
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._log = log
        self._has_topics = False
        self.appends = GroupAppend(self._append, metrics.appended)
        self.intake = Intake(settings, clock)

    def ensure_topics(self) -> None:
        """Create what an earlier start could not. Raises ``LogUnavailable``."""
        create_topics(self._log, self._settings)
        self._has_topics = True

    async def events(
        self, sent: Any, caller: Caller, idempotency_key: str | None
    ) -> Response[bytes]:
        batch = sent if isinstance(sent, list) else None
        if isinstance(sent, dict) and "events" in sent:
            batch = sent["events"]
            if not isinstance(batch, list):
                return problem(422, "events: is not an array", field="events")
        if batch is None and not isinstance(sent, dict):
            return problem(400, "The body is neither an event nor an array of events.")
        one = self.intake.event
        if batch is None:
            return await self._single(one(sent, caller.owner, idempotency_key, 0))
        if not batch:
            return problem(422, "The batch holds no event.", field="events")
        most = self._settings.max_batch_events
        if len(batch) > most:
            raise HTTPException(
                status_code=413,
                detail=f"The batch has {len(batch)} events; send {most} at most.",
            )
        return await self._batch(
            [
                one(event, caller.owner, idempotency_key, index)
                for index, event in enumerate(batch)
            ]
        )

    async def record(
        self, stream: str, check: Callable[[], Message], answer: msgspec.Struct
    ) -> Response[bytes]:
        """Store a version of an item or a user."""
        try:
            message = check()
        except InvalidRecord as error:
            self._metrics.refused.labels(stream).inc()
            return _broken(error.field, error.reason)
        await self._store(stream, [message])
        return _accepted(answer)

    async def _single(self, event: Accepted | Refused) -> Response[bytes]:
        if isinstance(event, Refused):
            self._metrics.refused.labels(EVENTS).inc()
            return _broken(event.field, event.reason)
        await self._store(EVENTS, [event.message])
        return _accepted(AcceptedEvent(event.event_id))

    async def _batch(self, events: list[Accepted | Refused]) -> Response[bytes]:
        good = [event.message for event in events if isinstance(event, Accepted)]
        bad = len(events) - len(good)
        self._metrics.refused.labels(EVENTS).inc(bad)
        if good:
            await self._store(EVENTS, good)
        result = BatchResult([_result(event) for event in events], len(good), bad)
        return _accepted(result) if good else _answer(422, result)

    def _append(self, topic: str, messages: Sequence[Message]) -> None:
        if not self._has_topics:
            self.ensure_topics()
        self._log.append(topic, messages)

    async def _store(self, stream: str, messages: list[Message]) -> None:
        await self.appends.append(self._settings.topic(stream), messages)


def _result(event: Accepted | Refused) -> EventResult:
    if isinstance(event, Accepted):
        return EventResult(event.event_id, True)
    return EventResult(event.event_id, False, event.field, event.reason)


def _answer(status: int, content: Any) -> Response[bytes]:
    return Response(
        msgspec.json.encode(content), status_code=status, media_type=MediaType.JSON
    )


def _accepted(content: Any) -> Response[bytes]:
    return _answer(202, content)


def _broken(field: str, reason: str) -> Response[bytes]:
    detail = f"{field}: {reason}" if field else reason
    return problem(422, detail, field=field, reason=reason)


def create_app(settings: Settings, log: EventLog, clock: Clock) -> Litestar:
    """The ASGI app. It starts and stays up while the log is away, and answers
    503 meanwhile. ``log`` stays the caller's to close."""
    access = Access(settings)
    http_metrics = HttpMetrics(CollectorRegistry())
    metrics = _Metrics(http_metrics.registry)
    collector = _Collector(settings, clock, log, metrics)
    intake = collector.intake

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        try:
            await asyncio.to_thread(collector.ensure_topics)
        except LogUnavailable as error:
            log_event("collector", "log unavailable", reason=str(error))
        yield
        await collector.appends.close()

    @post(
        "/events",
        summary="Send one event or a batch",
        status_code=202,
        operation_class=EventsOperation,
        responses={
            202: ResponseSpec(
                cast(type[Any], AcceptedEvent | BatchResult),
                description="The log has what was accepted",
            )
        }
        | _REFUSALS,
        security=SECURITY,
    )
    async def events(request: Request[Any, Any, Any]) -> Response[bytes]:
        caller = access.admit(request.scope["headers"], Right.COLLECT)
        sent = await read_json(request, settings.max_body_bytes)
        key = request.headers.get("idempotency-key")
        return await collector.events(sent, caller, key)

    @put(
        "/items/{item_id:path}",
        summary="Replace an item of the catalogue",
        status_code=202,
        operation_class=ItemOperation,
        responses={202: ResponseSpec(AcceptedItem, description="The log has it")}
        | _REFUSALS,
        security=SECURITY,
    )
    async def items(request: Request[Any, Any, Any]) -> Response[bytes]:
        access.admit(request.scope["headers"], Right.WRITE)
        item_id = path_id(request.scope, "/items/")
        sent = await read_json(request, settings.max_body_bytes)
        return await collector.record(
            ITEMS, lambda: intake.item(sent, item_id), AcceptedItem(item_id)
        )

    @put(
        "/users/{user_id:path}",
        summary="Replace what is known of a user",
        status_code=202,
        operation_class=UserOperation,
        responses={202: ResponseSpec(AcceptedUser, description="The log has it")}
        | _REFUSALS,
        security=SECURITY,
    )
    async def users(request: Request[Any, Any, Any]) -> Response[bytes]:
        access.admit(request.scope["headers"], Right.WRITE)
        user_id = path_id(request.scope, "/users/")
        sent = await read_json(request, settings.max_body_bytes)
        return await collector.record(
            USERS, lambda: intake.user(sent, user_id), AcceptedUser(user_id)
        )

    @get("/healthz", summary="Whether the process runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @get("/readyz", summary="Whether events can be stored")
    async def readyz() -> dict[str, str]:
        await asyncio.to_thread(collector.ensure_topics)
        return {"status": "ok"}

    @get("/metrics", include_in_schema=False)
    async def prometheus() -> Response[bytes]:
        metrics.waiting.set(collector.appends.waiting)
        return http_metrics.exposition()

    app = Litestar(
        [events, items, users, healthz, readyz, prometheus],
        lifespan=[lifespan],
        exception_handlers=EXCEPTION_HANDLERS,
        logging_config=None,
        # read_json knows the limit, and of the unpacked body too
        request_max_body_size=None,
        openapi_config=OpenAPIConfig(
            title="Feedloop collector",
            version=__version__,
            components=SECURITY_COMPONENTS,
            path="/schema",
            # The other plugins load their pages' scripts from elsewhere.
            render_plugins=[JsonRenderPlugin()],
        ),
    )
    return http_metrics.watch(app)
