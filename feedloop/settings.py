"""Every setting, once: its type, its default and what it is for.

A setting is read from the environment variable ``FEEDLOOP_<NAME>``. Commands
and libraries take a ``Settings`` object; nothing else reads the environment.
``feedloop settings`` prints this list with the values in force.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from feedloop.errors import SettingsError

PREFIX = "FEEDLOOP_"
SECRET = {"secret": True}

Port = Annotated[int, Meta(ge=0, le=65535)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings. Paths are absolute; durations are seconds."""

    # where things are
    namespace: Annotated[
        str,
        Meta(
            pattern="^[a-z][a-z0-9_]{0,39}$",
            description="prefixes schemas, topics, Redis keys and folders",
        ),
    ] = "feedloop"
    home: Annotated[
        str,
        Meta(description="folder of the embedded log, tables and builds"),
    ] = ".feedloop"
    project_dir: Annotated[
        str, Meta(description="the dbt project's root, which holds seeds/")
    ] = str(Path(__file__).resolve().parent.parent)
    data: Annotated[
        str, Meta(description="folder of the public datasets that import reads")
    ] = "../shared/data"
    clock_file: Annotated[
        str,
        Meta(description="file with an ISO instant to take as the clock"),
    ] = ""

    # the event log
    log: Annotated[
        str, Meta(pattern="^(file|kafka)$", description="the event log: file or kafka")
    ] = "file"
    kafka_bootstrap: Annotated[
        str, Meta(description="Kafka bootstrap servers, host:port,host:port")
    ] = "localhost:9092"
    log_partitions: Annotated[
        int,
        Meta(ge=1, le=1024, description="partitions of a topic that Feedloop creates"),
    ] = 2

    # the tables
    catalog_uri: Annotated[
        str,
        Meta(
            description="Iceberg catalog, sqlite:///… or postgresql+psycopg2://…; "
            "empty: in home"
        ),
    ] = ""
    warehouse_uri: Annotated[
        str, Meta(description="where Iceberg keeps data files; empty: in home")
    ] = ""
    load_max_events: Annotated[
        int, Meta(ge=1, description="most events in one commit of the loader")
    ] = 1_000_000
    load_readers: Annotated[
        int,
        Meta(
            ge=0,
            le=64,
            description="processes that read a large backlog for the loader; "
            "1: the loader reads by itself; 0: one a core, four at most",
        ),
    ] = 1
    load_readers_from: Annotated[
        int,
        Meta(ge=1, description="records waiting from which on such processes start"),
    ] = 500_000
    max_clock_skew_s: Annotated[
        int, Meta(ge=0, description="how far ahead of the log's clock an event may be")
    ] = 3600
    dedupe_horizon_days: Annotated[
        int,
        Meta(
            ge=1,
            description="how far from an event in time its event_id is looked for",
        ),
    ] = 30

    # maintenance of the tables
    compact_target_mb: Annotated[
        int,
        Meta(ge=1, description="size towards which small data files are merged, MB"),
    ] = 64
    snapshot_age_s: Annotated[
        int,
        Meta(
            ge=600,
            description="how long a snapshot stays readable after the next commit; "
            "longer than any dbt build takes",
        ),
    ] = 21_600
    snapshots_kept: Annotated[
        int, Meta(ge=1, description="newest snapshots that are kept whatever their age")
    ] = 5
    orphan_age_s: Annotated[
        int,
        Meta(
            ge=3600,
            description="how old a file that no snapshot has must be to be removed; "
            "longer than any commit takes",
        ),
    ] = 86_400
    feature_log_days: Annotated[
        int,
        Meta(
            ge=1,
            description="days of lists whose scored feature values are kept; training "
            "takes the history's where they are gone",
        ),
    ] = 45
    maintain_every_s: Annotated[
        int,
        Meta(
            ge=0,
            description="how often `feedloop load --every` maintains the tables; "
            "0: never, `feedloop maintain` does",
        ),
    ] = 3600

    # the online store
    redis_url: Annotated[
        str, Meta(description="redis://…; empty: an embedded redis-server in home")
    ] = ""

    # HTTP
    collector_host: Annotated[str, Meta(description="address the collector binds")] = (
        "127.0.0.1"
    )
    collector_port: Annotated[Port, Meta(description="port of the collector")] = 8080
    server_host: Annotated[str, Meta(description="address the serving API binds")] = (
        "127.0.0.1"
    )
    server_port: Annotated[Port, Meta(description="port of the serving API")] = 8081
    collect_keys: Annotated[
        str,
        Meta(
            description="API keys that may send events, comma-separated",
            extra_json_schema=SECRET,
        ),
    ] = "dev-collect"
    read_keys: Annotated[
        str,
        Meta(
            description="API keys that may read lists, comma-separated",
            extra_json_schema=SECRET,
        ),
    ] = "dev-read"
    write_keys: Annotated[
        str,
        Meta(
            description="API keys that may write the catalogues, comma-separated",
            extra_json_schema=SECRET,
        ),
    ] = "dev-write"
    signing_key: Annotated[
        str,
        Meta(
            min_length=8,
            description="signs request_id, so that nobody can forge one",
            extra_json_schema=SECRET,
        ),
    ] = "dev-signing-key"
    max_body_bytes: Annotated[
        int, Meta(ge=1024, description="largest request body, unpacked")
    ] = 1_000_000
    max_batch_events: Annotated[
        int, Meta(ge=1, description="most events in one request")
    ] = 1000
    rate_limit_per_s: Annotated[
        int, Meta(ge=0, description="requests a second for one API key; 0: no limit")
    ] = 0

    @property
    def home_dir(self) -> Path:
        """Folder of everything embedded that belongs to this namespace."""
        return Path(self.home).resolve() / self.namespace

    @property
    def log_dir(self) -> Path:
        return self.home_dir / "log"

    @property
    def dedupe_dir(self) -> Path:
        """What is known of the events table's files; safe to delete."""
        return self.home_dir / "dedupe"

    @property
    def builds_dir(self) -> Path:
        return self.home_dir / "builds"

    @property
    def duckdb_path(self) -> Path:
        return self.home_dir / "warehouse.duckdb"

    @property
    def redis_dir(self) -> Path:
        return self.home_dir / "redis"

    @property
    def seeds_dir(self) -> Path:
        return Path(self.project_dir) / "seeds"

    @property
    def data_dir(self) -> Path:
        path = Path(self.data)
        return path if path.is_absolute() else Path(self.project_dir) / path

    @property
    def iceberg_catalog_uri(self) -> str:
        return self.catalog_uri or f"sqlite:///{self.home_dir / 'catalog.db'}"

    @property
    def iceberg_warehouse_uri(self) -> str:
        return self.warehouse_uri or (self.home_dir / "iceberg").as_uri()

    @property
    def catalog_name(self) -> str:
        """Name of the Iceberg catalog. No schema may be called like it: Spark
        reads the first part of ``a.b`` as a catalog where one has that name."""
        return f"{self.namespace}_lake"

    @property
    def raw_schema(self) -> str:
        """Iceberg namespace, and the warehouse's schema, of the raw tables."""
        return f"{self.namespace}_raw"

    @property
    def replay_schema(self) -> str:
        """Iceberg namespace of the tables that `feedloop replay` writes."""
        return f"{self.namespace}_replay"

    def topic(self, stream: str) -> str:
        """Name in the log of a stream: events, items or users."""
        return f"{self.namespace}.{stream}"


def from_environment(
    environ: Mapping[str, str] | None = None, **overrides: Any
) -> Settings:
    """Settings from ``FEEDLOOP_*`` variables, with ``overrides`` on top.

    Raises ``SettingsError`` for an unknown variable or an unusable value.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for name, text in environ.items():
        if name.startswith(PREFIX) and text != "":
            field = name.removeprefix(PREFIX).lower()
            if field not in Settings.__struct_fields__:
                raise SettingsError(
                    f"{name} is not a setting; `feedloop settings` lists them all."
                )
            values[field] = text
    values |= overrides
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        found = re.search(r"`\$\.(\w+)`", str(error))
        name = f"{PREFIX}{found[1].upper()}" if found else "A setting"
        raise SettingsError(
            f"{name} is not usable: {error}; `feedloop settings` shows what it is for."
        ) from error


def to_environment(settings: Settings) -> dict[str, str]:
    """The variables that make another process use the same settings."""
    return {
        PREFIX + name.upper(): str(getattr(settings, name))
        for name in Settings.__struct_fields__
    }


def describe() -> list[dict[str, Any]]:
    """One entry a setting: name, variable, default, description, secret."""
    schema = msgspec.json.schema(Settings)["$defs"]["Settings"]["properties"]
    return [
        {
            "name": name,
            "variable": PREFIX + name.upper(),
            "default": entry.get("default", ""),
            "description": entry.get("description", ""),
            "secret": bool(entry.get("secret", False)),
        }
        for name, entry in schema.items()
    ]
