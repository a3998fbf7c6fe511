"""``feedloop dead-letters``: what the loader could not store, and why."""

from __future__ import annotations

from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from feedloop.settings import Settings, from_environment
from loaders.duckdb_plugin import raw_views

SHOWN_BYTES = 80


def dead_letters(settings: Settings, limit: int) -> list[dict[str, Any]]:
    """The newest dead letters by the log's time, at most ``limit``; ``value``
    as it came. Raises ``WarehouseEmpty`` where nothing was ever loaded."""
    with raw_views(settings) as connection:
        rows: list[dict[str, Any]] = (
            connection.execute(
                "select stream, log_partition, log_offset, field, reason, key, "
                "ingested_at, value from dead_letters "
                "order by ingested_at desc, stream, log_partition, log_offset desc "
                "limit ?",
                [limit],
            )
            .to_arrow_table()
            .to_pylist()
        )
    return rows


_limit = click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="At most."
)
_as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON; bytes as base64."
)


@click.group(
    invoke_without_command=True,
    epilog="Example: feedloop dead-letters list --limit 5 --json",
)
@_limit
@_as_json
@click.pass_context
def command(ctx: click.Context, limit: int, as_json: bool) -> None:
    """What the loader could not store, with its bytes and the reason."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_them, limit=limit, as_json=as_json)


@command.command(name="list", epilog="Example: feedloop dead-letters list --limit 5")
@_limit
@_as_json
def list_them(limit: int, as_json: bool) -> None:
    """The newest dead letters."""
    rows = dead_letters(from_environment(), limit)
    if as_json:
        click.echo(msgspec.json.encode(rows))
        return
    if not rows:
        click.echo("No dead letters.")
        return
    table = Table("stream", "partition", "offset", "field", "reason", "first bytes")
    for row in rows:
        value = (row["value"] or b"")[:SHOWN_BYTES].decode(errors="backslashreplace")
        table.add_row(
            row["stream"],
            str(row["log_partition"]),
            str(row["log_offset"]),
            row["field"] or "",
            row["reason"],
            value,
        )
    Console().print(table)
