"""A project that was really built (log to build folder), and a real Kafka."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from feedloop.cli.dbt_run import run_dbt
from feedloop.clock import FixedClock
from feedloop.contracts.log import EventLog
from feedloop.settings import Settings, from_environment
from loaders.duckdb_plugin import load_extensions
from loaders.loader import load_all
from loaders.log import create_topics, open_log
from tests.support import checkerboard
from tests.support.kafka_broker import KafkaBroker

PEOPLE, ITEMS = 40, 40
VARIABLES = {"als_factors": 8, "train_every_days": 1, "min_cooccurrence": 1}


@dataclass
class Project:
    """A namespace of its own in a temporary home."""

    settings: Settings
    clock: FixedClock
    log: EventLog

    def load(self) -> None:
        load_all(self.settings, self.clock)

    def dbt(self, *arguments: str, **variables: Any) -> None:
        run_dbt(self.settings, *arguments, variables=VARIABLES | variables)

    def build_features(self, as_of: str, *arguments: str) -> None:
        """Staging to features, without tests: many tests need just that."""
        kinds = ("test", "unit_test", "snapshot")
        flags = [word for kind in kinds for word in ("--exclude-resource-type", kind)]
        self.dbt("build", "--selector", "features", *flags, *arguments, as_of=as_of)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query on the warehouse, schema and raw tables in reach."""
        with self._warehouse() as connection:
            return connection.execute(sql).fetchall()

    def relations(self, names: Iterable[str]) -> dict[str, pa.Table]:
        """Tables and views of the warehouse, whole."""
        with self._warehouse() as connection:
            return {name: connection.table(name).to_arrow_table() for name in names}

    @contextlib.contextmanager
    def _warehouse(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with duckdb.connect(str(self.settings.duckdb_path)) as connection:
            load_extensions(connection)
            connection.execute("set TimeZone = 'UTC'")
            connection.execute(f"use {self.settings.namespace}")
            yield connection


def open_project(home: Path) -> Project:
    settings = from_environment({}, home=str(home), namespace="t1")
    clock = FixedClock(checkerboard.END)
    log = open_log(settings, clock)
    create_topics(log, settings)
    return Project(settings, clock, log)


@pytest.fixture
def new_project(tmp_path: Path) -> Project:
    """A namespace with topics and nothing in them."""
    return open_project(tmp_path)


@pytest.fixture(scope="session")
def make_checkerboard() -> Callable[[Path], Project]:
    def make(home: Path) -> Project:
        project = open_project(home)
        checkerboard.send_catalogue(
            project.log,
            project.settings,
            [checkerboard.item(number) for number in range(ITEMS)],
            [checkerboard.user(number) for number in range(PEOPLE)],
        )
        rows = list(checkerboard.events(PEOPLE, ITEMS))
        checkerboard.send_events(project.log, project.settings, rows)
        project.load()
        return project

    return make


@pytest.fixture(scope="session")
def built_project(
    make_checkerboard: Callable[[Path], Project],
    tmp_path_factory: pytest.TempPathFactory,
) -> Project:
    """The checkerboard, loaded and built once. For reading only."""
    project = make_checkerboard(tmp_path_factory.mktemp("built"))
    project.dbt("build", as_of=checkerboard.END.isoformat(sep=" "))
    return project


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    with KafkaBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker
