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
    """The newest dead letters, at most ``limit``; ``value`` as it came."""
    with raw_views(settings) as connection:
        rows: list[dict[str, Any]] = (
            connection.execute(
                "select stream, log_partition, log_offset, field, reason, "
                "ingested_at, value from dead_letters "
                "order by load_seq desc, log_partition, log_offset limit ?",
                [limit],
            )
            .to_arrow_table()
            .to_pylist()
        )
    return rows


@click.group(
    invoke_without_command=True,
    epilog="Example: feedloop dead-letters list --limit 5 --json",
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """What the loader could not store, with its bytes and the reason."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_them)


@command.command(name="list", epilog="Example: feedloop dead-letters list --limit 5")
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="At most."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; bytes as base64.")
def list_them(limit: int = 20, as_json: bool = False) -> None:
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
