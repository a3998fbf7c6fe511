"""The project's point-in-time join on Parquet files.

``python -m benchmarks.support.known_join QUERY OUT`` runs the rendered query and
writes what it gives to ``OUT``. It prints the CPU-seconds and seconds of the join
alone, reading the files included, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
from dbt.artifacts.schemas.run import RunExecutionResult
from dbt.contracts.graph.nodes import SqlNode

from feedloop.cli.dbt_run import run_dbt
from feedloop.settings import Settings

QUERY = """
with labels as (select * from read_parquet('{labels}')),
known_users as ({{{{ known_versions("{users}", 'user_id') }}}}),
known_items as ({{{{ known_versions("{items}", 'item_id') }}}})
select
    labels.*,
    {columns}
from labels
{{{{ join_known('known_users', 'user_id', 'labels', 'labels.event_timestamp') }}}}
{{{{ join_known('known_items', 'item_id', 'labels', 'labels.event_timestamp') }}}}
"""
"""What ``train_known_features`` does, on files."""


def rendered(settings: Settings, folder: Path, named: dict[str, list[str]]) -> str:
    """The join in SQL, by dbt, from the macros that the models use.

    ``named``: the features by entity type.
    """
    columns = [
        f"known_{entity}s.{name}" for entity, names in named.items() for name in names
    ]
    query = QUERY.format(
        labels=folder / "labels.parquet",
        users=_versions(folder / "users.parquet"),
        items=_versions(folder / "items.parquet"),
        columns=", ".join(columns),
    )
    return compiled(settings, query)


def compiled(settings: Settings, query: str) -> str:
    """A query in SQL, by dbt: the project's macros are in reach."""
    result = run_dbt(settings, "compile", "--inline", query).result
    assert isinstance(result, RunExecutionResult)
    (node,) = (one.node for one in result.results)
    assert isinstance(node, SqlNode)
    return str(node.compiled_code)


def _versions(values: Path) -> str:
    """A file's rows as a snapshot has them: known from their timestamp on."""
    return (
        "(select *, event_timestamp as available_at, "
        "event_timestamp as dbt_valid_from, "
        "timestamptz '9999-12-31 00:00:00+00' as dbt_valid_to "
        f"from read_parquet('{values}'))"
    )


def main(query: Path, out: Path) -> None:
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        wall, cpu = time.perf_counter(), time.process_time()
        found = connection.execute(query.read_text()).to_arrow_table()
        took = {
            "wall_s": time.perf_counter() - wall,
            "cpu_s": time.process_time() - cpu,
        }
    pq.write_table(found, out)
    print(json.dumps(took))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
