"""The collector: events, items and users come in over HTTP.

A 202 is sent only after the log has the message; when it can't be stored the
answer is a 503, and sending again stores it once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import msgspec
from litestar import Litestar, Request, Response, get, post, put
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ASGIApp
from prometheus_client import CollectorRegistry

from feedloop import __version__
from feedloop.clock import Clock
from feedloop.contracts.log import EVENTS, ITEMS, USERS, EventLog, Message
from feedloop.errors import InvalidRecord, LogUnavailable, PartlyStored
from feedloop.http import (
    EXCEPTION_HANDLERS,
    SECURITY,
    SECURITY_COMPONENTS,
    Access,
    Caller,
    HttpMetrics,
    Right,
    path_id,
)
from feedloop.settings import Settings
from loaders.bodies import read_json
from loaders.collector_answers import (
    AcceptedEvent,
    AcceptedItem,
    AcceptedUser,
    BatchResult,
    Problem,
    UnstoredBatch,
    UnstoredEvent,
    answer,
    broken,
    refusal,
    results_of,
    unstored,
    unstored_batch,
)
from loaders.collector_docs import EventsOperation, ItemOperation, UserOperation
from loaders.collector_metrics import CollectorMetrics
from loaders.group_append import ANSWER_S, GroupAppend
from loaders.intake import Accepted, Intake, Refused
from loaders.log import create_topics

_REFUSALS = {
    400: ResponseSpec(Problem, description="The body is not JSON"),
    401: ResponseSpec(Problem, description="The API key is missing"),
    403: ResponseSpec(Problem, description="The API key does not carry the right"),
    413: ResponseSpec(Problem, description="The body or the batch is too large"),
    415: ResponseSpec(Problem, description="Its encoding is not gzip, or not UTF-8"),
    422: ResponseSpec(Problem, description="It breaks the contract; names the field"),
    429: ResponseSpec(Problem, description="Too many requests; see Retry-After"),
    503: ResponseSpec(Problem, description="The log is away; see Retry-After"),
}


class _Collector:
    """From what was sent to an answer, once it is stored."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        log: EventLog,
        registry: CollectorRegistry,
    ) -> None:
        self._settings = settings
        self._log = log
        self._metrics = CollectorMetrics(registry, lambda: self._appends.waiting)
        self._appends = GroupAppend(self._append, self._metrics)
        self._has_topics = False
        self._probe: asyncio.Future[None] | None = None
        self.intake = Intake(settings, clock)

    async def ready(self) -> None:
        """Return where the log answers and has its topics; create those that it
        lacks. Raises ``LogUnavailable``, in time for whoever asks."""
        if self._probe is None or self._probe.done():
            loop = asyncio.get_running_loop()
            self._probe = loop.run_in_executor(None, self._ensure_topics)
        done, _ = await asyncio.wait([self._probe], timeout=ANSWER_S)
        try:
            if not done:
                raise LogUnavailable(f"The log has not answered for {ANSWER_S} s.")
            self._probe.result()
        except LogUnavailable as error:
            self._metrics.away(error)
            raise
        self._metrics.reached()

    async def close(self) -> None:
        await self._appends.close()

    async def events(
        self, sent: Any, caller: Caller, idempotency_key: str | None
    ) -> ASGIApp:
        batch = sent if isinstance(sent, list) else None
        if isinstance(sent, dict) and "events" in sent:
            batch = sent["events"]
            if not isinstance(batch, list):
                return refusal(422, "events: is not an array", field="events")
        if batch is None and not isinstance(sent, dict):
            return refusal(400, "The body is neither an event nor an array of events.")
        one, now, owner = self.intake.event, self.intake.now(), caller.owner
        if batch is None:
            return await self._single(one(sent, now, owner, idempotency_key, 0))
        if not batch:
            return refusal(422, "The batch holds no event.", field="events")
        most = self._settings.max_batch_events
        if len(batch) > most:
            raise HTTPException(
                status_code=413,
                detail=f"The batch has {len(batch)} events; send {most} at most.",
            )
        return await self._batch(
            [
                one(event, now, owner, idempotency_key, index)
                for index, event in enumerate(batch)
            ]
        )

    async def record(
        self, stream: str, check: Callable[[], Message], accepted: msgspec.Struct
    ) -> ASGIApp:
        """Store a version of an item or a user."""
        try:
            message = check()
        except InvalidRecord as error:
            self._metrics.refused(stream, error.field)
            return broken(error.field, error.reason)
        await self._store(stream, [message])
        return answer(202, accepted)

    async def _single(self, event: Accepted | Refused) -> ASGIApp:
        if isinstance(event, Refused):
            self._metrics.refused(EVENTS, event.field)
            return broken(event.field, event.reason)
        try:
            await self._store(EVENTS, [event.message])
        except LogUnavailable as error:
            return unstored(error, event.event_id)
        return answer(202, AcceptedEvent(event.event_id))

    async def _batch(self, events: list[Accepted | Refused]) -> ASGIApp:
        good = [event.message for event in events if isinstance(event, Accepted)]
        for event in events if len(good) < len(events) else ():
            if isinstance(event, Refused):
                self._metrics.refused(EVENTS, event.field)
        if not good:
            return answer(422, results_of(events, ()))
        try:
            await self._store(EVENTS, good)
        except LogUnavailable as error:
            return unstored_batch(error, events, len(good))
        return answer(202, results_of(events, [True] * len(good)))

    async def _store(self, stream: str, messages: list[Message]) -> None:
        try:
            await self._appends.append(self._settings.topic(stream), messages)
        except LogUnavailable as error:
            stored = sum(error.stored) if isinstance(error, PartlyStored) else 0
            self._metrics.unstored(stream, len(messages) - stored)
            raise

    def _append(self, topic: str, messages: Sequence[Message]) -> None:
        if not self._has_topics:
            self._ensure_topics()
        try:
            self._log.append(topic, messages)
        except LogUnavailable:
            self._has_topics = False  # a topic may have been deleted
            raise

    def _ensure_topics(self) -> None:
        create_topics(self._log, self._settings)
        self._has_topics = True


def create_app(settings: Settings, log: EventLog, clock: Clock) -> Litestar:
    """The ASGI app. It starts and stays up while the log is away, and answers
    503 meanwhile. ``log`` stays the caller's to close."""
    access = Access(settings)
    http_metrics = HttpMetrics(CollectorRegistry())
    collector = _Collector(settings, clock, log, http_metrics.registry)
    intake = collector.intake

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        with suppress(LogUnavailable):  # it was logged, and may come yet
            await collector.ready()
        yield
        await collector.close()

    @post(
        "/events",
        summary="Send one event or a batch",
        status_code=202,
        operation_class=EventsOperation,
        responses={
            **_REFUSALS,
            202: ResponseSpec(
                cast(type[Any], AcceptedEvent | BatchResult),
                description="The log has what was accepted",
            ),
            422: ResponseSpec(
                cast(type[Any], Problem | BatchResult),
                description="Nothing was accepted; names the fields",
            ),
            503: ResponseSpec(
                cast(type[Any], UnstoredEvent | UnstoredBatch),
                description="The log is away; see Retry-After. What is not "
                "accepted here may be stored all the same: send it again with the "
                "event_id that it has here",
            ),
        },
        security=SECURITY,
    )
    async def events(request: Request[Any, Any, Any]) -> ASGIApp:
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
    async def items(request: Request[Any, Any, Any]) -> ASGIApp:
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
    async def users(request: Request[Any, Any, Any]) -> ASGIApp:
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
        await collector.ready()
        return {"status": "ok"}

    @get("/metrics", include_in_schema=False)
    async def prometheus() -> Response[bytes]:
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
