"""dbt-duckdb's window on the raw Iceberg tables.

For every run the plugin makes one view a raw table, over the table's newest
metadata file: ``source()`` stays ordinary and a run sees one snapshot, however
long it takes. The Iceberg extension is loaded from its wheel, so that nothing
is fetched at run time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import duckdb
from dbt.adapters.duckdb.plugins import BasePlugin

from feedloop.contracts.tables import RAW_TABLES
from feedloop.errors import SettingsError, WarehouseEmpty
from feedloop.settings import Settings, from_environment
from loaders.iceberg import open_catalog

# Iceberg's extension needs avro's to be there before it.
EXTENSIONS = ("avro", "iceberg")


def load_extensions(connection: duckdb.DuckDBPyConnection) -> None:
    """Load DuckDB's Iceberg extension from its wheel. Needs no network."""
    for name in EXTENSIONS:
        spec = find_spec(f"duckdb_extension_{name}")
        if spec is None or spec.origin is None:
            raise SettingsError(
                f"The wheel duckdb-extension-{name} is not installed; install "
                "requirements/core.txt."
            )
        folder = Path(spec.origin).parent / "extensions" / f"v{duckdb.__version__}"
        connection.execute(f"load '{folder / f'{name}.duckdb_extension'}'")


def metadata_locations(settings: Settings) -> dict[str, str]:
    """The newest metadata file of every raw table that exists, by name."""
    catalog = open_catalog(settings)
    locations = {}
    for name in RAW_TABLES:
        identifier = (settings.raw_schema, name)
        if catalog.table_exists(identifier):
            locations[name] = catalog.load_table(identifier).metadata_location
    return locations


@contextmanager
def raw_views(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection in memory with a view for every raw table that exists, for
    who reads them beside dbt. Raises ``WarehouseEmpty`` where nothing was ever
    loaded."""
    locations = metadata_locations(settings)
    if "events" not in locations:
        raise WarehouseEmpty(
            f"{settings.raw_schema} holds no table yet; bring data with `feedloop "
            "load`, `feedloop import movielens-100k` or `make demo`."
        )
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        load_extensions(connection)
        for name, location in locations.items():
            connection.execute(f"create view {name} as from iceberg_scan('{location}')")
        yield connection


class Plugin(BasePlugin):
    """Creates the views when dbt opens its connection."""

    def update_connection_config(self, creds: Any, config: dict[str, Any]) -> None:
        Path(creds.path).parent.mkdir(parents=True, exist_ok=True)

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        load_extensions(conn)
        settings = from_environment()
        schema = settings.raw_schema
        conn.execute(f"create schema if not exists {schema}")
        for name, location in metadata_locations(settings).items():
            scan = f"iceberg_scan('{location}')"
            conn.execute(f"create or replace view {schema}.{name} as from {scan}")
