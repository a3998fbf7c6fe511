from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from exporters.keyspace import Keys
from exporters.redis_store import connect, online_store
from feedloop.clock import FixedClock
from feedloop.settings import Settings, from_environment

AS_OF = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)
NOW = datetime(2026, 3, 1, 4, 0, tzinfo=UTC)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


@pytest.fixture(scope="session")
def redis_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A real server for all tests; its data is nobody's after a test."""
    home = tmp_path_factory.mktemp("redis")
    settings = from_environment({}, home=str(home), namespace="server")
    with online_store(settings) as reached:
        yield reached


@pytest.fixture
def settings(tmp_path: Path, redis_home: Settings) -> Iterator[Settings]:
    """A home of the test's own, and an empty store."""
    settings = from_environment(
        {}, home=str(tmp_path), namespace="t1", redis_url=redis_home.redis_url
    )
    yield settings
    with connect(settings) as client:
        client.flushall()


@pytest.fixture
def client(settings: Settings) -> Iterator[redis.Redis]:
    with connect(settings) as client:
        yield client


@pytest.fixture
def keys(settings: Settings) -> Keys:
    return Keys(settings.namespace)
