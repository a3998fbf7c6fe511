"""The adapter's parts that need no session: literals, Java, configuration."""

from __future__ import annotations

import subprocess
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from dbt.adapters.sparkpy.connections import literal
from dbt.adapters.sparkpy.java import java_home
from dbt.adapters.sparkpy.session import session_conf

from feedloop.errors import SettingsError
from feedloop.settings import from_environment

VECTOR_MODULE = "--add-modules=jdk.incubator.vector"


@pytest.mark.parametrize(
    ("value", "sql"),
    [
        (None, "null"),
        (True, "true"),
        (9007199254740993, "9007199254740993"),
        (0.1, "0.1"),
        ("the last 7 days' events", r"'the last 7 days\' events'"),
        ("back\\slash", r"'back\\slash'"),
        (date(2026, 1, 2), "date '2026-01-02'"),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "timestamp '2026-01-02 03:00:00+00:00'"),
    ],
)
def test_a_seed_value_becomes_a_literal_of_the_same_value(value: Any, sql: str) -> None:
    assert literal(value) == sql


def java_that_says(folder: Path, version: str) -> dict[str, str]:
    """An environment whose java prints this version."""
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"""#!/bin/sh\necho 'openjdk version "{version}"' >&2\n""")
    java.chmod(0o755)
    return {"JAVA_HOME": str(folder)}


@pytest.mark.parametrize("version", ["17.0.15", "21.0.8"])
def test_an_installed_java_serves(tmp_path: Path, version: str) -> None:
    environ = java_that_says(tmp_path / "jdk", version)
    assert java_home(environ, tmp_path / "own") is None


@pytest.mark.parametrize("version", ["1.8.0_392", "11.0.2", "25.0.2"])
def test_the_wheel_serves_where_spark_does_not_start_on_java(
    tmp_path: Path, version: str
) -> None:
    environ = java_that_says(tmp_path / "jdk", version)
    assert java_home(environ, tmp_path / "own") == str(tmp_path / "own")


def test_the_wheel_starts_with_the_flag_that_spark_adds(tmp_path: Path) -> None:
    home = java_home({"PATH": str(tmp_path)}, tmp_path / "own")
    assert home is not None
    command = [
        f"{home}/bin/java",
        "-Da=b c",
        VECTOR_MODULE,
        "-XshowSettings:properties",
    ]
    answer = subprocess.run(
        [*command, "-version"], capture_output=True, text=True, check=True
    )
    assert "a = b c" in answer.stderr


def test_the_profile_has_the_last_word(tmp_path: Path) -> None:
    settings = from_environment({}, home=str(tmp_path), namespace="t1")
    conf = session_conf(settings, {"spark.sql.ansi.enabled": "false"})
    assert conf["spark.sql.ansi.enabled"] == "false"
    assert conf["spark.sql.catalog.t1_lake.type"] == "jdbc"


def test_a_catalog_of_another_kind_must_be_named_in_the_profile(
    tmp_path: Path,
) -> None:
    settings = from_environment({}, home=str(tmp_path), catalog_uri="http://catalog")
    with pytest.raises(SettingsError, match=r"spark\.sql\.catalog\.feedloop_lake\.uri"):
        session_conf(settings, {})
    own = {"spark.sql.catalog.feedloop_lake.uri": "http://catalog"}
    assert session_conf(settings, own).items() >= own.items()
