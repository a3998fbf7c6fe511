"""``feedloop status``: lag, last loads, tables, dead letters, and what to do."""

from __future__ import annotations

from datetime import datetime

import click
import msgspec
from rich.console import Console
from rich.table import Table

from feedloop.clock import SystemClock, clock_from
from feedloop.settings import from_environment
from loaders.status import Status, look

MB = 1 << 20


@click.command(epilog="Example: feedloop status --json")
@click.option("--json", "as_json", is_flag=True, help="Print it all as JSON.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """How far the tables are behind the log, what they hold, and what to do.

    The exit code is 1 where loading can't go on by itself: the log is away, or
    loading is refused. Advice alone, such as compaction being due, is no
    failure. Nothing is changed.
    """
    settings = from_environment()
    status = look(settings, clock_from(settings.clock_file), SystemClock().now())
    if as_json:
        click.echo(msgspec.json.encode(msgspec.to_builtins(status) | {"ok": status.ok}))
    else:
        _print(Console(), status)
    if not status.ok:
        ctx.exit(1)


def _print(console: Console, status: Status) -> None:
    lag = Table("stream", "partition", "loaded to", "end", "waiting", "seconds")
    for one in status.streams:
        for at in one.partitions:
            lag.add_row(
                one.stream,
                str(at.partition),
                str(at.loaded_to),
                str(at.end),
                f"{at.records:,}",
                f"{at.seconds:,.0f}",
            )
    if lag.row_count:
        console.print(lag)
    for one in status.streams:
        console.print(
            f"{one.stream}: last load {_when(one.last_load)}, load_seq "
            f"{one.load_seq if one.load_seq is not None else 'none'}"
        )
    if status.tables:
        tables = Table(
            "table", "rows", "files", "MB", "to merge", "snapshots", "last commit"
        )
        for held in status.tables:
            tables.add_row(
                held.table,
                f"{held.rows:,}",
                f"{held.files:,}",
                f"{held.bytes / MB:,.1f}",
                f"{held.files_due:,}",
                f"{held.snapshots:,}",
                _when(held.last_commit),
            )
        console.print(tables)
    if status.dead:
        letters = Table("dead letters in 24 h", "field", "reason", "count")
        for dead in status.dead:
            letters.add_row(
                dead.stream, dead.field or "", dead.reason, f"{dead.count:,}"
            )
        console.print(letters)
    for loss in status.accepted_losses:
        console.print(
            f"Accepted loss: {loss['topic']}, partition {loss['log_partition']}, "
            f"{loss['reason']}, from {loss['from_offset']} to {loss['to_offset']}, "
            f"by {loss['accepted_by']} on {loss['accepted_at']:%Y-%m-%d %H:%M}"
        )
    console.print()
    for line in status.advice or ["Nothing needs doing."]:
        console.print(line, soft_wrap=True, markup=False)


def _when(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}" if at is not None else "unknown"
