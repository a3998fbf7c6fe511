"""Connections of dbt's threads to the one Spark session."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from dbt.adapters.contracts.connection import Connection, ConnectionState
from dbt.adapters.spark import SparkConnectionManager, SparkCredentials
from dbt.adapters.spark.session import Connection as SessionConnection
from dbt.adapters.spark.session import Cursor, SessionConnectionWrapper
from dbt.adapters.sparkpy.session import spark_session
from dbt_common.exceptions import DbtRuntimeError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession


@dataclass
class SparkPyCredentials(SparkCredentials):
    """A profile's output. ``server_side_parameters`` configure the session."""

    def __post_init__(self) -> None:
        own_choice = self.server_side_parameters.get("spark.sql.ansi.enabled")
        super().__post_init__()
        # dbt-spark switches ANSI off, so that a bad cast gives a silent null
        # where DuckDB stops; the session has it on unless the profile says no.
        del self.server_side_parameters["spark.sql.ansi.enabled"]
        if own_choice is not None:
            self.server_side_parameters["spark.sql.ansi.enabled"] = str(own_choice)

    @property
    def type(self) -> str:
        return "sparkpy"


def literal(value: Any) -> str:
    """``value`` as a Spark SQL literal: seeds are inserted as text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return f"timestamp '{value.isoformat(sep=' ')}'"
    if isinstance(value, date):
        return f"date '{value.isoformat()}'"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)


class SessionCursor(Cursor):
    """A cursor on a session that exists, rather than one that it makes anew
    with Hive's metastore, as dbt-spark's does."""

    def __init__(self, session: SparkSession) -> None:
        super().__init__()
        self._session = session

    def execute(self, sql: str, *parameters: Any) -> None:
        """Run ``sql``; ``parameters`` are literals for its ``%s``."""
        try:
            self._df = self._session.sql(sql % parameters if parameters else sql)
        except PySparkException as error:
            raise DbtRuntimeError(str(error)) from error


class SessionHandle(SessionConnection):
    """What dbt-spark's wrapper opens cursors on."""

    def __init__(self, session: SparkSession) -> None:
        super().__init__()
        self._session = session

    def cursor(self) -> SessionCursor:
        return SessionCursor(self._session)


class SessionWrapper(SessionConnectionWrapper):
    """dbt-spark's wrapper, with literals that survive an apostrophe, a null
    and an exact number."""

    @classmethod
    def _fix_binding(cls, value: Any) -> str:
        return literal(value)


class SparkPyConnectionManager(SparkConnectionManager):
    TYPE = "sparkpy"

    @classmethod
    def open(cls, connection: Connection) -> Connection:
        if connection.state != ConnectionState.OPEN:
            parameters = connection.credentials.server_side_parameters
            connection.handle = SessionWrapper(SessionHandle(spark_session(parameters)))
            connection.state = ConnectionState.OPEN
        return connection
