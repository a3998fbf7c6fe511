"""``feedloop dead-letters``: what could not be stored, why, and once more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.table import Table

from feedloop.cli.periods import Instant
from feedloop.contracts.log import STREAMS
from feedloop.settings import Settings, from_environment
from feedloop.telemetry import progress
from loaders.dead_letters import DeadLetterReplay, Letters
from loaders.duckdb_plugin import raw_views
from loaders.iceberg import ensure_tables, open_catalog

SHOWN_BYTES = 80
Command = TypeVar("Command", bound=Callable[..., None])


def dead_letters(
    settings: Settings, limit: int, wanted: Letters
) -> list[dict[str, Any]]:
    """The newest of the ``wanted`` dead letters by the log's time, at most
    ``limit``; ``value`` as it came. Raises ``WarehouseEmpty`` where nothing was
    ever loaded."""
    condition, values = wanted.condition()
    with raw_views(settings) as connection:
        rows: list[dict[str, Any]] = (
            connection.execute(
                "select stream, log_partition, log_offset, field, reason, key, "
                f"ingested_at, value from dead_letters where {condition} "
                "order by ingested_at desc, stream, log_partition, log_offset desc "
                "limit ?",
                [*values, limit],
            )
            .to_arrow_table()
            .to_pylist()
        )
    return rows


def _chosen(command: Command) -> Command:
    """The options by which dead letters are chosen."""
    for option in (
        click.option("--since", type=Instant(), help="Only those the log has since."),
        click.option("--reason", help="Only those with this in their field or reason."),
        click.option(
            "--stream", type=click.Choice(STREAMS), help="Only of this stream."
        ),
    ):
        command = option(command)
    return command


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


@command.command(
    name="list", epilog="Example: feedloop dead-letters list --reason event_type"
)
@_chosen
@_limit
@_as_json
def list_them(
    limit: int,
    as_json: bool,
    stream: str | None = None,
    reason: str | None = None,
    since: datetime | None = None,
) -> None:
    """The newest dead letters."""
    rows = dead_letters(from_environment(), limit, Letters(stream, reason, since))
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


@command.command(epilog="Example: feedloop dead-letters replay --reason event_type")
@_chosen
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def replay(
    stream: str | None,
    reason: str | None,
    since: datetime | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Try dead letters once more, after a rule or the event types changed.

    What is good by now goes into its table, each event once, and is no dead
    letter any more; what is still bad stays, with the reason of now. It may run
    beside loaders, and be repeated after a kill.
    """
    settings = from_environment()
    catalog = open_catalog(settings)
    ensure_tables(catalog, settings)
    with progress("Replaying", total=None) as advance:
        done = DeadLetterReplay(settings, catalog).run(
            Letters(stream, reason, since), dry_run=dry_run, on_letters=advance
        )
    if as_json:
        click.echo(msgspec.json.encode(done))
        return
    if not done:
        click.echo("No such dead letters.")
    for one in done:
        click.echo(
            f"{one.stream}: of {one.letters} dead letters {one.stored} "
            f"{'would be' if dry_run else 'are'} rows now, {one.duplicates} were "
            f"there already, {one.still_bad} are still bad"
        )
