"""The online store: how it is reached, and whose keys it holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from exporters.embedded_redis import embedded_redis
from exporters.keyspace import KEPT_S, LAYOUT, Keys
from feedloop.errors import (
    ForeignNamespace,
    SettingsError,
    StoreError,
    StoreUnavailable,
)
from feedloop.settings import Settings

BULK_TIMEOUT_S = 30.0
"""For the exporter, which sends megabytes before it waits for an answer."""
READ_TIMEOUT_S = 1.0
"""For the serving API, which would rather say 503 than keep a person waiting."""


@contextmanager
def online_store(settings: Settings) -> Iterator[Settings]:
    """Settings whose ``redis_url`` is set: as they came, or naming the embedded
    server, which then runs for as long as the context does."""
    if settings.redis_url:
        yield settings
    else:
        with embedded_redis(settings) as url:
            yield msgspec.structs.replace(settings, redis_url=url)


def connect(settings: Settings) -> redis.Redis:
    """A client for batch work; it connects when it is first used."""
    try:
        return redis.Redis.from_url(
            settings.redis_url,
            socket_timeout=BULK_TIMEOUT_S,
            socket_connect_timeout=5.0,
            # One more try, at once: for a connection that went stale.
            retry=Retry(NoBackoff(), 1),
        )
    except ValueError as error:
        raise _unusable(error) from error


def connect_async(settings: Settings) -> redis.asyncio.Redis:
    """A client for the serving API; it connects when it is first used."""
    try:
        return redis.asyncio.Redis.from_url(
            settings.redis_url,
            socket_timeout=READ_TIMEOUT_S,
            socket_connect_timeout=READ_TIMEOUT_S,
            retry=AsyncRetry(NoBackoff(), 1),
        )
    except ValueError as error:
        raise _unusable(error) from error


def _unusable(error: ValueError) -> SettingsError:
    return SettingsError(
        f"FEEDLOOP_REDIS_URL is not usable: {error}; give redis://host:port/db, "
        "rediss://… or unix:///path, or unset it for the embedded server."
    )


@contextmanager
def store_errors(settings: Settings) -> Iterator[None]:
    """Redis' exceptions as Feedloop's: ``StoreUnavailable`` where trying again
    may help, ``StoreError`` where it won't."""
    try:
        yield
    except redis.exceptions.AuthenticationError as error:
        raise StoreError(
            f"The online store at {_place(settings)} refuses the user or password "
            "in FEEDLOOP_REDIS_URL; correct it."
        ) from error
    except (
        redis.exceptions.ConnectionError,
        redis.exceptions.TimeoutError,
    ) as error:
        raise StoreUnavailable(
            f"The online store at {_place(settings)} can't be reached ({error}); "
            "start it or correct FEEDLOOP_REDIS_URL."
        ) from error
    except redis.exceptions.RedisError as error:
        raise StoreError(
            f"The online store at {_place(settings)} refused a command ({error}); "
            "free memory or disk there, or correct its configuration."
        ) from error


def _place(settings: Settings) -> str:
    """The store's address without its password."""
    if not settings.redis_url:
        return str(settings.redis_dir)
    url = urlsplit(settings.redis_url)
    if url.scheme == "unix":
        return url.path
    return f"{url.hostname}:{url.port or 6379}{url.path}"


def claim_namespace(client: redis.Redis, keys: Keys) -> None:
    """Leave this layout's marker where there is none.

    Raises ``ForeignNamespace`` where the namespace's keys are of another
    layout, so that two versions never mix their keys.
    """
    pipe = client.pipeline()
    pipe.hsetnx(keys.meta(), "layout", str(LAYOUT))
    pipe.hsetnx(keys.meta(), "namespace", keys.namespace)
    pipe.expire(keys.meta(), KEPT_S)
    pipe.hgetall(keys.meta())
    check_marker(pipe.execute()[-1], keys)


def check_marker(marker: dict[bytes, bytes], keys: Keys) -> None:
    """Raises ``ForeignNamespace`` where ``marker`` is not this layout's."""
    layout = marker.get(b"layout", b"").decode()
    namespace = marker.get(b"namespace", b"").decode()
    if (layout, namespace) != (str(LAYOUT), keys.namespace):
        raise ForeignNamespace(
            f"The online store holds keys of namespace {namespace!r} in layout "
            f"{layout!r} where this version expects {keys.namespace!r} in layout "
            f"{str(LAYOUT)!r}; set FEEDLOOP_NAMESPACE or FEEDLOOP_REDIS_URL to a "
            "place of its own."
        )


class BulkWriter:
    """SET with a lifetime, thousands at a time over one connection.

    Commands are packed by hand, and the answers to one call are read after the
    next was sent, so that Redis is not kept waiting. A context manager: on
    leaving, every answer has been read. Redis' errors are raised by the next
    call or on leaving; what was written before one stays.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._pool: Any = client.connection_pool
        self._connection: Any = self._pool.get_connection()
        self._pending = 0
        self.written = 0
        """Values that Redis has answered OK to."""

    def set(
        self, keys: Sequence[bytes], values: Sequence[bytes], ttl_s: int | float
    ) -> None:
        """Set ``keys`` to ``values``, to live for ``ttl_s`` seconds each."""
        ttl = b"%d" % max(1, round(ttl_s * 1000))
        tail = b"\r\n$2\r\nPX\r\n$%d\r\n%b\r\n" % (len(ttl), ttl)
        packed = b"".join(
            [
                b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b%b"
                % (len(key), key, len(value), value, tail)
                for key, value in zip(keys, values, strict=True)
            ]
        )
        self._connection.send_packed_command([packed])
        self._settle()
        self._pending = len(keys)

    def _settle(self) -> None:
        pending, self._pending = self._pending, 0
        for _ in range(pending):
            self._connection.read_response()
        self.written += pending

    def __enter__(self) -> BulkWriter:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        clean = False
        try:
            if failed is None:
                self._settle()
                clean = True
        finally:
            # After a failure answers may be outstanding, and the next user of
            # the connection would take them for its own.
            if not clean:
                self._connection.disconnect()
            self._pool.release(self._connection)
