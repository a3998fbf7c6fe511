"""What the two HTTP servers share: API keys and their rights, rate limits, the
form of an error, and request metrics.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec
from litestar import Litestar, MediaType, Request, Response
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.exceptions import (
    HTTPException,
    NotAuthorizedException,
    NotFoundException,
    PermissionDeniedException,
    TooManyRequestsException,
    ValidationException,
)
from litestar.handlers import BaseRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Components, Operation, SecurityScheme
from litestar.types import (
    ASGIApp,
    ExceptionHandlersMap,
    Guard,
    HTTPScope,
    Message,
    Receive,
    Scope,
    Send,
)
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from feedloop.contracts.events import ID_BYTES
from feedloop.errors import (
    LogUnavailable,
    StoreError,
)
from feedloop.settings import Settings

RETRY_AFTER = {"Retry-After": "1"}
"""For the answer about what is away for now."""


# --- who may do what ---------------------------------------------------------


class Right(StrEnum):
    COLLECT = "collect"
    READ = "read"
    WRITE = "write"


class Caller(NamedTuple):
    """Who sent a request. ``owner`` names the key without giving it away and
    is the same in every process: it may go into ids, logs and metrics."""

    owner: str
    rights: frozenset[Right]


Headers = Iterable[tuple[bytes, bytes]]
"""As ASGI has them: names in lower case."""


def api_key(headers: Headers) -> bytes | None:
    """The key in ``X-API-Key``, else in ``Authorization: Bearer``."""
    bearer = None
    for name, value in headers:
        if name == b"x-api-key":
            return value
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer = value[7:].strip()
    return bearer


class ApiKeys:
    """The keys of the settings and the rights each of them carries.

    A key that stands in several settings has the rights of all of them.
    """

    def __init__(self, settings: Settings) -> None:
        rights: dict[bytes, set[Right]] = {}
        for right, keys in (
            (Right.COLLECT, settings.collect_keys),
            (Right.READ, settings.read_keys),
            (Right.WRITE, settings.write_keys),
        ):
            for key in keys.split(","):
                if key.strip():
                    rights.setdefault(key.strip().encode(), set()).add(right)
        # A dict compares keys only when their hashes are equal, and Python's
        # hash is keyed anew in every process: timing tells nothing of a key.
        self._callers = {
            key: Caller(sha256(key).hexdigest()[:16], frozenset(granted))
            for key, granted in rights.items()
        }

    def caller(self, headers: Headers, right: Right) -> Caller:
        """Who sent ``headers``.

        Raises Litestar's 401 where there is no key, and 403 where the key is
        unknown or doesn't carry ``right``.
        """
        key = api_key(headers)
        if key is None:
            raise NotAuthorizedException(
                detail="An API key is missing; send it as X-API-Key or as a "
                "Bearer token.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        caller = self._callers.get(key)
        if caller is None:
            raise PermissionDeniedException(detail="The API key is not known here.")
        if right not in caller.rights:
            raise PermissionDeniedException(
                detail=f"The API key does not carry the right to {right}."
            )
        return caller


class TokenBuckets:
    """``rate_per_s`` requests a second for each owner, bursts of one second's
    worth; 0 is no limit. Only known callers are handed in, so that the number
    of buckets is that of the keys."""

    def __init__(
        self, rate_per_s: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate_per_s
        self._monotonic = monotonic
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, owner: str) -> float:
        """0.0 where a request may pass, else the seconds until one may."""
        if not self._rate:
            return 0.0
        now = self._monotonic()
        tokens, seen = self._buckets.get(owner, (float(self._rate), now))
        tokens = min(self._rate, tokens + (now - seen) * self._rate)
        granted = tokens >= 1
        self._buckets[owner] = (tokens - 1 if granted else tokens, now)
        return 0.0 if granted else (1 - tokens) / self._rate


class Access:
    """Rights and rate limits together, as a guard or as a call."""

    def __init__(
        self, settings: Settings, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = ApiKeys(settings)
        self._buckets = TokenBuckets(settings.rate_limit_per_s, monotonic)

    def admit(self, headers: Headers, right: Right) -> Caller:
        """Who sent ``headers``, or Litestar's 401, 403 or 429."""
        caller = self._keys.caller(headers, right)
        wait = self._buckets.take(caller.owner)
        if wait:
            raise TooManyRequestsException(
                detail="This API key has used up its requests for now; send "
                "fewer a second or ask for a higher limit.",
                headers={"Retry-After": str(math.ceil(wait))},
            )
        return caller

    def guard(self, right: Right) -> Guard:
        """A Litestar guard; ``caller_of`` then says who passed it."""

        async def admitted(
            connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler
        ) -> None:
            scope: Any = connection.scope
            scope["feedloop.caller"] = self.admit(scope["headers"], right)

        return admitted


def caller_of(request: Request[Any, Any, Any]) -> Caller:
    """Who passed the guard of this request."""
    scope: Any = request.scope
    caller: Caller = scope["feedloop.caller"]
    return caller


SECURITY_COMPONENTS = Components(
    security_schemes={
        "ApiKey": SecurityScheme(
            type="apiKey", name="X-API-Key", security_scheme_in="header"
        ),
        "Bearer": SecurityScheme(type="http", scheme="bearer"),
    }
)
"""For ``OpenAPIConfig(components=…)``."""
SECURITY: list[dict[str, list[str]]] = [{"ApiKey": []}, {"Bearer": []}]
"""For the ``security`` of a handler behind a guard."""


def path_id(scope: HTTPScope, prefix: str) -> str:
    """The opaque id that follows ``prefix`` in the path, as it was sent.

    An id may hold a slash; servers unquote it in ``path``, so it is taken from
    ``raw_path``. Raises Litestar's 404 where the path is another one and its
    ValidationException where it is no id.
    """
    raw = scope["raw_path"]
    if not raw.startswith(prefix.encode()):
        raise NotFoundException
    try:
        text = unquote_to_bytes(raw[len(prefix) :]).decode()
    except UnicodeDecodeError as error:
        raise ValidationException(detail="The id in the path is not UTF-8.") from error
    if not text or len(text.encode()) > ID_BYTES or "\x00" in text:
        raise ValidationException(
            detail=f"The id in the path must have 1 to {ID_BYTES} bytes and no "
            "null character."
        )
    return text


# --- the form of an error ----------------------------------------------------


class Problem(msgspec.Struct):
    """An error's answer. ``field`` is there where one field is to blame."""

    detail: str
    field: str | msgspec.UnsetType = msgspec.UNSET


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """These errors for the ``responses`` of a handler, so that OpenAPI has them."""
    return {
        status: ResponseSpec(
            Problem,
            description=HTTPStatus(status).phrase,
            generate_examples=False,
        )
        for status in statuses
    }


@dataclass
class OpenAPIOperation(Operation):
    """An operation without Litestar's own 400: validation is 422 here. For the
    ``operation_class`` of a handler with parameters."""

    def __post_init__(self) -> None:
        if self.responses:
            self.responses.pop("400", None)


def problem(
    status: int,
    detail: str,
    headers: Mapping[str, str] | None = None,
    **fields: Any,
) -> Response[bytes]:
    """An error's answer: ``{"detail": …}`` and what else helps to mend it."""
    return Response(
        msgspec.json.encode({"detail": detail} | fields),
        status_code=status,
        headers=dict(headers or {}) | {"Cache-Control": "no-store"},
        media_type=MediaType.JSON,
    )


def _http(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    return problem(error.status_code, error.detail, error.headers)


def _invalid(_: Request[Any, Any, Any], error: ValidationException) -> Response[bytes]:
    """A parameter of the wrong type or range: 422 that names it."""
    causes = error.extra if isinstance(error.extra, list) else []
    if not causes:
        return problem(422, error.detail)
    field, message = causes[0].get("key", ""), causes[0].get("message", "")
    return problem(422, f"{field}: {message}", field=field)


def _away(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return problem(503, str(error), RETRY_AFTER)


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    logging.getLogger("feedloop.http").error(
        "unexpected error",
        exc_info=error,
        extra={"fields": {"method": request.method, "path": request.url.path}},
    )
    return problem(500, "Something went wrong here; it was logged.")


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    HTTPException: _http,
    ValidationException: _invalid,
    StoreError: _away,
    LogUnavailable: _away,
    Exception: _unexpected,
}
"""For ``Litestar(exception_handlers=…)``: every answer is a ``problem``; a
store or log that is away is 503 with ``Retry-After``, validation is 422."""


class JsonAnswer:
    """An answer of JSON that is encoded already and that nobody may cache.

    Litestar's own response takes a third of the time of a request that only
    reads. A handler that returns this is annotated ``ASGIApp``.
    """

    def __init__(
        self,
        body: bytes,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.body = body
        self.status = status
        self.headers = headers or {}

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
            (b"cache-control", b"no-store"),
            *((k.lower().encode(), v.encode()) for k, v in self.headers.items()),
        ]
        await send(
            {
                "type": "http.response.start",
                "status": self.status,
                "headers": headers,
            }
        )
        await send(
            {"type": "http.response.body", "body": self.body, "more_body": False}
        )


# --- metrics -----------------------------------------------------------------


class HttpMetrics:
    """Requests by method, path template and status, and how long they took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._requests = Counter(
            "feedloop_http_requests",
            "Requests answered",
            ("method", "path", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "feedloop_http_request_seconds",
            "Time from a request's headers to the end of its answer",
            ("path",),
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 2.5, 10),
            registry=registry,
        )
        # labels() takes a lock and builds strings; its result is kept.
        self._children: dict[tuple[str, str, int], tuple[Any, Any]] = {}

    def watch(self, app: Litestar) -> Litestar:
        """Count every HTTP request that ``app`` answers from now on."""
        app.asgi_handler = self._measured(app.asgi_handler)
        return app

    def _measured(self, app: ASGIApp) -> ASGIApp:
        async def measured(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP:
                await app(scope, receive, send)
                return
            start = time.perf_counter()
            status = 500

            async def noting_status(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app(scope, receive, noting_status)
            finally:
                self._observe(scope, status, time.perf_counter() - start)

        return measured

    def _observe(self, scope: HTTPScope, status: int, seconds: float) -> None:
        # The template, never the path: label values must stay few.
        path = scope.get("path_template") or "unmatched"
        key = (scope["method"], path, status)
        children = self._children.get(key)
        if children is None:
            children = self._children[key] = (
                self._requests.labels(key[0], path, str(status)),
                self._seconds.labels(path),
            )
        children[0].inc()
        children[1].observe(seconds)

    def exposition(self) -> Response[bytes]:
        """The answer to ``GET /metrics``."""
        return Response(
            generate_latest(self.registry),
            headers={"Content-Type": CONTENT_TYPE_LATEST},
        )
