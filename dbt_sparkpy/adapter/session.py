"""The one Spark session of a dbt process, on Feedloop's Iceberg catalog."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from dbt.adapters.sparkpy.java import java_home
from pyspark.sql import SparkSession

from feedloop.errors import SettingsError
from feedloop.settings import Settings, from_environment

JARS = (
    "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0",
    "org.xerial:sqlite-jdbc:3.50.3.0",
)
SQLITE = "sqlite:///"

_lock = threading.Lock()


def cache_dir(settings: Settings) -> Path:
    """Where jars and the Java launcher stay between runs."""
    return Path(settings.project_dir) / ".feedloop-cache" / "spark"


def catalog_conf(settings: Settings) -> dict[str, str]:
    """Spark's view of the SQLite catalog that pyiceberg writes.

    Raises ``SettingsError`` for another kind of catalog.
    """
    uri = settings.iceberg_catalog_uri
    prefix = f"spark.sql.catalog.{settings.catalog_name}"
    if not uri.startswith(SQLITE):
        raise SettingsError(
            f"Spark can't derive its catalog from FEEDLOOP_CATALOG_URI={uri}; give "
            f"{prefix}.type and {prefix}.uri in profiles.yml, under the output's "
            "server_side_parameters."
        )
    path = Path(uri.removeprefix(SQLITE))
    # Spark may well be the first to open it, and SQLite makes no folders.
    path.parent.mkdir(parents=True, exist_ok=True)
    return {
        f"{prefix}.type": "jdbc",
        f"{prefix}.uri": f"jdbc:sqlite:file:{quote(str(path))}?busy_timeout=30000",
        f"{prefix}.jdbc.schema-version": "V1",
        f"{prefix}.warehouse": settings.iceberg_warehouse_uri,
    }


def session_conf(settings: Settings, overrides: Mapping[str, str]) -> dict[str, str]:
    """All of the session's configuration; ``overrides`` (the profile's) win."""
    # SQL catalogs keep their name in every row: under another one than
    # pyiceberg's no table would be seen.
    catalog = settings.catalog_name
    prefix = f"spark.sql.catalog.{catalog}"
    conf = {
        "spark.app.name": "feedloop",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.jars.ivy": str(cache_dir(settings)),
        "spark.jars.packages": ",".join(JARS),
        "spark.sql.ansi.enabled": "true",
        prefix: "org.apache.iceberg.spark.SparkCatalog",
        # A table that pyiceberg has just written to must be read as it is now.
        f"{prefix}.cache-enabled": "false",
        "spark.sql.defaultCatalog": catalog,
        "spark.sql.extensions": (
            "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions"
        ),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.warehouse.dir": settings.iceberg_warehouse_uri,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    if f"{prefix}.uri" not in overrides:
        conf |= catalog_conf(settings)
    return conf | dict(overrides)


def spark_session(overrides: Mapping[str, str]) -> SparkSession:
    """The session of this process, started when first asked for."""
    with _lock:
        running = SparkSession.getActiveSession()
        if running is not None:
            return running
        settings = from_environment()
        home = java_home(os.environ, cache_dir(settings) / "java")
        if home is not None:
            # Spark's launcher script knows no other way to be told.
            os.environ["JAVA_HOME"] = home
        # Its Python workers would be whatever `python3` the PATH has.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = SparkSession.builder
        for key, value in session_conf(settings, overrides).items():
            builder = builder.config(key, value)
        session = builder.getOrCreate()
        session.sparkContext.setLogLevel("ERROR")
        return session
