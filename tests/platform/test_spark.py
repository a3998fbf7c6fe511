"""The same project on Spark and Iceberg gives the rows that DuckDB gives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from feedloop.settings import to_environment
from loaders.iceberg import open_catalog
from tests.conftest import VARIABLES, Project
from tests.support import checkerboard

TABLES = {
    "event_types": "event_type",
    "stg_events": "event_id",
    "int_as_of": "purpose",
    "tile_item_days": "day, item_id",
    "int_user_items": "purpose, user_id, item_id",
    "emb_item_factors": "purpose, item_id",
}
"""What is built, by what its rows are sorted: a seed, incremental models of two
kinds, plain tables, and a Python model."""


def dbt_on_spark(project: Project, *arguments: str) -> None:
    """dbt as an engineer types it: Spark lives as long as that process."""
    home = project.settings.home_dir / "spark"
    command = [
        str(Path(sys.executable).with_name("dbt")),
        *arguments,
        *("--target", "spark", "--vars", repr(VARIABLES)),
        *("--target-path", str(home / "target"), "--log-path", str(home / "logs")),
    ]
    done = subprocess.run(
        command,
        cwd=project.settings.project_dir,
        env=os.environ | to_environment(project.settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def rows_on_spark(project: Project, table: str) -> list[dict[str, Any]]:
    """The rows as pyiceberg finds them in the catalog it shares with Spark."""
    catalog = open_catalog(project.settings)
    scan = catalog.load_table((project.settings.namespace, table)).scan()
    keys = [(key, "ascending") for key in TABLES[table].split(", ")]
    rows: list[dict[str, Any]] = scan.to_arrow().sort_by(keys).to_pylist()
    return rows


def assert_equal_rows(project: Project) -> None:
    for table, order in TABLES.items():
        found = rows_on_spark(project, table)
        columns = ", ".join(found[0])
        expected = project.query(f"select {columns} from {table} order by {order}")
        assert len(found) == len(expected), table
        for row, values in zip(found, expected, strict=True):
            for (column, value), other in zip(row.items(), values, strict=True):
                inexact = isinstance(value, float | list)
                wanted = pytest.approx(other, rel=1e-6) if inexact else other
                assert value == wanted, f"{table}.{column}"


@pytest.fixture(scope="module")
def on_both(
    make_checkerboard: Callable[[Path], Project],
    tmp_path_factory: pytest.TempPathFactory,
) -> Project:
    """The checkerboard, built on DuckDB and on Spark from one catalog."""
    project = make_checkerboard(tmp_path_factory.mktemp("spark"))
    build = [
        *("build", "--select", "+emb_item_factors", "+tile_item_days"),
        *("--indirect-selection", "cautious", "--exclude-resource-type", "unit_test"),
    ]
    project.dbt(*build)
    dbt_on_spark(project, *build)
    return project


def test_spark_gives_the_rows_that_duckdb_gives(on_both: Project) -> None:
    assert_equal_rows(on_both)


def test_a_late_event_replaces_its_day_alone(on_both: Project) -> None:
    before = rows_on_spark(on_both, "tile_item_days")
    late = checkerboard.START + timedelta(days=3, hours=1)
    checkerboard.send_events(
        on_both.log, on_both.settings, [checkerboard.event("late", 0, 0, late)]
    )
    on_both.load()
    select = ["--select", "stg_events", "int_days_to_rebuild", "tile_item_days"]
    dbt_on_spark(on_both, "run", *select)

    after = rows_on_spark(on_both, "tile_item_days")
    day = late.date()
    assert [row for row in before if row["day"] != day] == [
        row for row in after if row["day"] != day
    ]
    clicks = {
        when: sum(row["engagements"] for row in rows if row["day"] == day)
        for when, rows in (("before", before), ("after", after))
    }
    assert clicks["after"] == clicks["before"] + 1
