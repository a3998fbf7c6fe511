"""``feedloop replay``: a time window of the log into a table of its own."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime

import click
import msgspec

from feedloop.cli.periods import Instant
from feedloop.clock import clock_from
from feedloop.contracts.log import EVENTS, STREAMS
from feedloop.settings import from_environment
from feedloop.telemetry import progress
from loaders.iceberg import open_catalog
from loaders.log import open_log
from loaders.replay import Replay


@click.command(
    epilog="Example: feedloop replay --from 2026-01-08 --to 2026-01-09 --into jan_8"
)
@click.option(
    "--from", "first", type=Instant(), required=True, help="First instant, UTC."
)
@click.option("--to", "last", type=Instant(), required=True, help="End, not included.")
@click.option("--into", required=True, help="Table to make in <namespace>_replay.")
@click.option("--stream", type=click.Choice(STREAMS), default=EVENTS, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def command(
    first: datetime, last: datetime, into: str, stream: str, as_json: bool
) -> None:
    """Load what the log got between two instants of its own time once more.

    Rows go to <namespace>_replay.TABLE, bad messages to TABLE_dead_letters
    beside it, decoded and deduplicated as production is. Production's tables
    and offsets stay as they are. Repeated after a kill it goes on; of a table
    that is complete it says so.
    """
    settings = from_environment()
    catalog = open_catalog(settings)
    with closing(open_log(settings, clock_from(settings.clock_file))) as log:
        replay = Replay(settings, catalog, log, into)
        window = replay.open(stream, first, last)
        reports = []
        with progress("Replaying", total=None) as advance:
            for report in replay.run(window):
                reports.append(report)
                advance(report.records)
    counts = {
        "table": ".".join(replay.table),
        "rows": sum(one.rows for one in reports),
        "dead_letters": sum(one.dead_letters for one in reports),
        "duplicates": sum(one.duplicates for one in reports),
        "offsets_from": window.begin,
        "offsets_to": window.end,
        "cut_partitions": window.cut,
    }
    if as_json:
        click.echo(msgspec.json.encode(counts))
        return
    if window.cut:
        click.echo(
            f"The log no longer has what was before in partition "
            f"{', '.join(map(str, window.cut))}; the window may have begun earlier.",
            err=True,
        )
    if not reports:
        click.echo(f"{counts['table']} is complete; nothing was left to load.")
        return
    click.echo(
        f"{counts['table']}: {counts['rows']} rows, {counts['dead_letters']} dead "
        f"letters ({'.'.join(replay.dead_letters)}), {counts['duplicates']} duplicates"
    )
