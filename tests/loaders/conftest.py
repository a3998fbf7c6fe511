from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from feedloop.clock import FixedClock
from feedloop.contracts.log import EventLog
from feedloop.settings import Settings, from_environment
from loaders.iceberg import ensure_tables, open_catalog, open_table
from loaders.loader import Loader
from loaders.log import create_topics, open_log
from tests.loaders.collecting import serving
from tests.loaders.sending import NOW, event, send


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return from_environment({}, home=str(tmp_path), namespace="t1")


@pytest.fixture
def log(settings: Settings, clock: FixedClock) -> Iterator[EventLog]:
    with closing(open_log(settings, clock)) as log:
        create_topics(log, settings)
        yield log


@pytest.fixture
def client(settings: Settings, clock: FixedClock) -> Iterator[httpx.Client]:
    """Of a collector on a log of its own."""
    with serving(settings, clock) as client:
        yield client


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """A file of one's own, by name."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def catalog(settings: Settings) -> Catalog:
    catalog = open_catalog(settings)
    ensure_tables(catalog, settings)
    return catalog


@pytest.fixture
def opened(catalog: Catalog, settings: Settings) -> Callable[[], Table]:
    return lambda: open_table(catalog, settings, "events")


@pytest.fixture
def loader(settings: Settings, catalog: Catalog, log: EventLog) -> Loader:
    return Loader(settings, catalog, log, "events")


@pytest.fixture
def loaded(loader: Loader, log: EventLog, settings: Settings) -> Loader:
    """Six commits of three events, on two days, each event later by a minute,
    the batches in reverse."""
    chance = random.Random(5)
    for batch in reversed(range(6)):
        day = timedelta(days=batch % 2)
        numbers = range(batch * 3, batch * 3 + 3)
        # what can't be packed, so that three rows are some kilobytes
        sent = [event(n, context={"x": chance.randbytes(2000).hex()}) for n in numbers]
        send(
            log, settings, *(e | {"occurred_at": e["occurred_at"] - day} for e in sent)
        )
        loader.load_once()
    return loader
