"""The catalog in a real PostgreSQL, as in production, and what may happen to it."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from pyiceberg.catalog import Catalog

from feedloop.clock import FixedClock
from feedloop.contracts.log import EventLog
from feedloop.errors import Fenced, SettingsError, TablesUnavailable
from feedloop.settings import Settings, from_environment, to_environment
from loaders.iceberg import ensure_tables, open_catalog
from loaders.loader import Loader, load_all
from loaders.log import create_topics, open_log
from loaders.maintenance import maintain
from tests.loaders.sending import NOW, event, event_ids, send
from tests.support import children
from tests.support.kafka_broker import free_ports
from tests.support.postgres import Postgres
from tests.support.tcp_proxy import TcpProxy

EVENTS = 60


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, server: Postgres) -> Settings:
    return from_environment(
        {},
        home=str(tmp_path),
        namespace=f"t{uuid.uuid4().hex[:12]}",
        catalog_uri=server.uri,
        load_max_events=5,
    )


@pytest.fixture
def log(settings: Settings, clock: FixedClock) -> Iterator[EventLog]:
    with closing(open_log(settings, clock)) as log:
        create_topics(log, settings)
        send(log, settings, *map(event, range(EVENTS)))
        yield log


def everything() -> list[str]:
    return sorted(f"e{number}" for number in range(EVENTS))


def load_to_the_end(environment: dict[str, str]) -> None:
    """For a process of its own: load, whatever the catalog does meanwhile."""
    settings = from_environment(environment)
    while True:
        try:
            load_all(settings, FixedClock(NOW))
            return
        except (Fenced, TablesUnavailable):
            continue


def test_two_loaders_at_once(settings: Settings, log: EventLog) -> None:
    """Each is fenced by the other; together they load each event once."""
    ensure_tables(open_catalog(settings), settings)
    loaders = [
        children.start(load_to_the_end, to_environment(settings)) for _ in range(2)
    ]
    for loader in loaders:
        loader.join()
    assert [loader.exitcode for loader in loaders] == [0, 0]
    assert event_ids(settings) == everything()


def test_a_server_that_is_killed_and_comes_back(
    settings: Settings, log: EventLog, server: Postgres
) -> None:
    catalog = open_catalog(settings)
    ensure_tables(catalog, settings)
    loader = Loader(settings, catalog, log, "events")
    loader.load_once()
    server.kill()
    try:
        with pytest.raises(TablesUnavailable, match="does not answer"):
            loader.load_once()
        with pytest.raises(TablesUnavailable, match="FEEDLOOP_CATALOG_URI"):
            open_catalog(settings)
        with pytest.raises(TablesUnavailable):
            list(maintain(settings, NOW))
    finally:
        server.start()
    # the same loader, with the connections that it had
    list(loader.catch_up())
    assert event_ids(settings) == everything()


def test_replies_and_connections_that_are_lost(
    settings: Settings, log: EventLog, server: Postgres
) -> None:
    """Some commits land and nobody is told, at instants that nobody chose."""
    chance = random.Random(3)
    (port,) = free_ports(1)
    through = msgspec.structs.replace(settings, catalog_uri=server.uri_at(port))
    with TcpProxy(port, server.port) as proxy:
        catalog: Catalog = open_catalog(through)
        ensure_tables(catalog, through)
        loader = children.start(load_to_the_end, to_environment(through))
        while loader.is_alive():
            loader.join(chance.uniform(0.02, 0.3))
            chance.choice((proxy.cut, proxy.lose_replies))()
            loader.join(0.02)
            proxy.flow()
        assert loader.exitcode == 0
    assert event_ids(settings) == everything()


def test_a_driver_that_is_not_there(settings: Settings) -> None:
    other = msgspec.structs.replace(settings, catalog_uri="postgresql+pg8000://x/y")
    with pytest.raises(SettingsError, match=r"pg8000.*feedloop\[postgres\]"):
        open_catalog(other)
