"""The serving API: lists and features out of Redis over HTTP.

A request for a list reads the user's two keys and nothing else; everything
that is the same for all users is in memory (``live``), and no model runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, cast

import msgspec
import redis.asyncio
from litestar import Litestar, Request, Response, get
from litestar.exceptions import NotFoundException, ServiceUnavailableException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import Parameter
from litestar.types import ASGIApp
from prometheus_client import CollectorRegistry, Counter, Gauge

from exporters.codec import (
    FeatureLayout,
    StoredList,
    decode_features,
    decode_list,
    instant,
    microseconds,
)
from exporters.keyspace import EntityType, Keys
from exporters.live import STALE_S, LiveBuilds, LiveSurface
from exporters.reader import CoalescedReader, Pair
from exporters.redis_store import connect_async, store_errors
from feedloop import __version__
from feedloop.clock import Clock
from feedloop.contracts.events import SURFACE_ALIASES
from feedloop.contracts.lists import RequestSigner
from feedloop.errors import StoreError
from feedloop.http import (
    EXCEPTION_HANDLERS,
    SECURITY,
    SECURITY_COMPONENTS,
    Access,
    HttpMetrics,
    JsonAnswer,
    OpenAPIOperation,
    Right,
    path_id,
    problem,
    problems,
)
from feedloop.settings import Settings

MAX_LIMIT = 1000
DEFAULT_LIMIT = 20
COLD = "cold"
_RANKS = range(1, MAX_LIMIT + 1)


class RankedItem(msgspec.Struct, frozen=True):
    """``rank`` is the place in this answer, from 1."""

    item_id: str
    score: float
    rank: int


class Recommendations(msgspec.Struct, frozen=True):
    """``request_id`` names this answer: impressions and what follows from them
    send it back. ``rec_id`` names the stored list it was cut from."""

    request_id: str
    rec_id: str
    model_version: str
    build_id: str
    generated_at: datetime
    surface: str
    items: list[RankedItem]


class EntityFeatures(msgspec.Struct, frozen=True):
    """What was known of an entity at ``as_of``, by the feature's name."""

    entity_type: str
    entity_id: str
    as_of: datetime
    available_at: datetime
    features: dict[str, float | list[float]]


class _Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._children: dict[tuple[str, str], Counter] = {}
        self.served = Counter(
            "feedloop_lists_served",
            "Lists answered, by where they came from: base, fresh or cold",
            ("surface", "source"),
            registry=registry,
        )
        self.unreadable = Counter(
            "feedloop_lists_unreadable",
            "Stored lists that could not be decoded; the cold-start list was served",
            ("surface",),
            registry=registry,
        )
        self.list_age = Gauge(
            "feedloop_list_age_seconds",
            "How long ago the live build's lists were generated",
            ("surface",),
            registry=registry,
        )
        self.pointer_age = Gauge(
            "feedloop_pointer_age_seconds",
            "Since when pointers and inactive items have not been read",
            registry=registry,
        )

    def count(self, surface: str, source: str) -> None:
        """One list was answered."""
        # labels() takes a lock and builds strings; its result is kept.
        child = self._children.get((surface, source))
        if child is None:
            child = self.served.labels(surface, source)
            self._children[(surface, source)] = child
        child.inc()

    def look(self, live: LiveBuilds, now: datetime) -> None:
        """Set the gauges to what they are now."""
        self.pointer_age.set(live.age_s())
        for surface, build in live.snapshot.surfaces.items():
            age = now - instant(build.cold.generated_at)
            self.list_age.labels(surface).set(age.total_seconds())


@dataclass(frozen=True)
class _Lists:
    """From a user to an answer."""

    live: LiveBuilds
    reader: CoalescedReader
    signer: RequestSigner
    clock: Clock
    metrics: _Metrics

    async def recommend(self, user_id: str, surface: str, limit: int) -> bytes:
        """The answer as JSON.

        Raises Litestar's 404 for an unknown surface, its 503 where no list has
        been exported, and ``StoreError`` where the store is away.
        """
        snapshot = self.live.snapshot
        if not snapshot.surfaces:
            raise ServiceUnavailableException(
                detail=self.live.trouble
                or "No list has been exported yet; run `feedloop build`.",
                headers={"Retry-After": "1"},
            )
        live = snapshot.surfaces.get(SURFACE_ALIASES.get(surface, surface))
        if live is None:
            raise NotFoundException(
                detail=f"There is no surface {surface!r}; known are "
                f"{', '.join(snapshot.surfaces)}."
            )
        key = live.before + user_id.encode()
        pair = await self.reader.read(key + live.base_after, key + live.fresh_after)
        source, stored, items = self._choose(pair, live, snapshot.inactive, limit)
        self.metrics.count(live.surface, source)
        return msgspec.json.encode(
            Recommendations(
                self.signer.sign(stored.rec_id, user_id),
                stored.rec_id,
                live.model_version,
                live.build_id,
                instant(stored.generated_at),
                live.surface,
                items,
            )
        )

    def _choose(
        self, pair: Pair, live: LiveSurface, inactive: frozenset[str], limit: int
    ) -> tuple[str, StoredList, list[RankedItem]]:
        """The newest list that has not run out and has an item to show, else
        the cold-start list; with where it came from and its items."""
        now = microseconds(self.clock.now())
        best, newest = None, 0
        for source, value in (("base", pair.base), ("fresh", pair.fresh)):
            if value is None:
                continue
            try:
                stored = decode_list(value)
                if newest < stored.generated_at and now < stored.expires_at:
                    items = _ranked(stored, live, inactive, limit)
                    if items:
                        best, newest = (source, stored, items), stored.generated_at
            except StoreError:
                self.metrics.unreadable.labels(live.surface).inc()
        return best or (COLD, live.cold, _ranked(live.cold, live, inactive, limit))


def _ranked(
    stored: StoredList, live: LiveSurface, inactive: frozenset[str], limit: int
) -> list[RankedItem]:
    """The first ``limit`` items of a list that are still active."""
    if not inactive:
        item_ids = live.items.ids(stored.ordinals[:limit])
        return list(map(RankedItem, item_ids, stored.scores, _RANKS))
    every = zip(live.items.ids(stored.ordinals), stored.scores, strict=True)
    active = [(item_id, score) for item_id, score in every if item_id not in inactive]
    return [
        RankedItem(item_id, score, rank)
        for (item_id, score), rank in zip(active[:limit], _RANKS, strict=False)
    ]


class _Features:
    """Feature values by name; layouts are immutable, so that they are kept."""

    def __init__(
        self, settings: Settings, client: redis.asyncio.Redis, clock: Clock
    ) -> None:
        self._settings = settings
        self._client = client
        self._keys = Keys(settings.namespace)
        self._clock = clock
        self._layouts: dict[str, FeatureLayout] = {}

    async def read(
        self, entity_type: EntityType, entity_id: str
    ) -> EntityFeatures | None:
        """None for an entity that was never seen."""
        key = self._keys.features(entity_type, entity_id)
        with store_errors(self._settings):
            value = cast("bytes | None", await self._client.get(key))
        if value is None:
            return None
        stored = decode_features(value)
        layout = await self._layout(stored.layout_id)
        return EntityFeatures(
            entity_type,
            entity_id,
            instant(stored.as_of),
            instant(stored.available_at),
            stored.by_name(layout, microseconds(self._clock.now())),
        )

    async def _layout(self, layout_id: str) -> FeatureLayout:
        if layout_id not in self._layouts:
            with store_errors(self._settings):
                key = self._keys.feature_layout(layout_id)
                text = cast("bytes | None", await self._client.get(key))
            if text is None:
                raise StoreError(
                    f"The feature layout {layout_id} is gone from the online store; "
                    "run `feedloop export` again."
                )
            self._layouts[layout_id] = FeatureLayout.decode(text)
        return self._layouts[layout_id]


def create_app(settings: Settings, clock: Clock) -> Litestar:
    """The ASGI app; ``settings.redis_url`` names the store.

    It starts and stays up while the store is away, and answers 503 meanwhile.
    """
    client = connect_async(settings)
    live = LiveBuilds(settings, client)
    access = Access(settings)
    http_metrics = HttpMetrics(CollectorRegistry())
    metrics = _Metrics(http_metrics.registry)
    lists = _Lists(
        live,
        CoalescedReader(settings, client),
        RequestSigner(settings.signing_key),
        clock,
        metrics,
    )
    feature_values = _Features(settings, client, clock)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        # Before the first request, so that a server that accepts also knows.
        await live.try_refresh()
        stopping = asyncio.Event()
        refresher = asyncio.create_task(live.keep_fresh(stopping))
        try:
            yield
        finally:
            stopping.set()
            await refresher
            await client.aclose()

    @get(
        "/recommendations/{user_id:path}",
        summary="A person's list, best first",
        responses={
            200: ResponseSpec(Recommendations, False, "The list"),
            **problems(401, 403, 404, 422, 429, 503),
        },
        security=SECURITY,
        operation_class=OpenAPIOperation,
    )
    async def recommendations(
        request: Request[Any, Any, Any],
        surface: Annotated[
            str, Parameter(description="where the list is shown")
        ] = "homepage",
        limit: Annotated[
            int, Parameter(ge=1, le=MAX_LIMIT, description="most items in the answer")
        ] = DEFAULT_LIMIT,
    ) -> ASGIApp:
        # A call and not a guard: Litestar copies the handler for each guard.
        access.admit(request.scope["headers"], Right.READ)
        user_id = path_id(request.scope, "/recommendations/")
        return JsonAnswer(await lists.recommend(user_id, surface, limit))

    @get(
        "/features/{entity_type:str}/{entity_id:path}",
        summary="An entity's features by name (internal)",
        responses={
            200: ResponseSpec(EntityFeatures, False, "The features"),
            **problems(401, 403, 404, 422, 429, 503),
        },
        guards=[access.guard(Right.WRITE)],
        security=SECURITY,
        operation_class=OpenAPIOperation,
    )
    async def features(
        request: Request[Any, Any, Any], entity_type: EntityType
    ) -> ASGIApp:
        entity_id = path_id(request.scope, f"/features/{entity_type}/")
        found = await feature_values.read(entity_type, entity_id)
        if found is None:
            raise NotFoundException(
                detail=f"There are no features of the {entity_type} {entity_id!r}."
            )
        return JsonAnswer(msgspec.json.encode(found))

    @get("/healthz", summary="Whether the process runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @get("/readyz", summary="Whether lists can be served")
    async def readyz() -> Response[bytes]:
        if live.trouble:
            return problem(503, live.trouble)
        if live.age_s() > STALE_S:
            return problem(503, "The online store has not been read for seconds.")
        if not live.snapshot.surfaces:
            return problem(503, "No list has been exported yet; run `feedloop build`.")
        return Response(msgspec.json.encode({"status": "ok"}))

    @get("/metrics", include_in_schema=False)
    async def prometheus() -> Response[bytes]:
        metrics.look(live, clock.now())
        return http_metrics.exposition()

    app = Litestar(
        [recommendations, features, healthz, readyz, prometheus],
        lifespan=[lifespan],
        exception_handlers=EXCEPTION_HANDLERS,
        logging_config=None,
        openapi_config=OpenAPIConfig(
            title="Feedloop serving API",
            version=__version__,
            components=SECURITY_COMPONENTS,
            path="/schema",
            # The other plugins load their pages' scripts from elsewhere.
            render_plugins=[JsonRenderPlugin()],
        ),
    )
    return http_metrics.watch(app)
