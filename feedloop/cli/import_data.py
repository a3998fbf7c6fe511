"""``feedloop import``: a public or your own dataset into the raw tables."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from feedloop.clock import clock_from
from feedloop.contracts.log import EVENTS
from feedloop.contracts.seeds import read_event_types
from feedloop.errors import ImportFailed
from feedloop.settings import Settings, from_environment
from loaders.conversion import UNITS
from loaders.datasets import DATASETS
from loaders.importing import ImportReport, import_dataset, import_file
from loaders.mapping import TARGETS, parse_map
from loaders.messages import Cut
from loaders.proposal import Proposal, propose
from loaders.row_sources import open_rows


def _instant(
    ctx: click.Context, param: click.Parameter, text: str | None
) -> datetime | None:
    """An ISO instant; without a zone it is UTC."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is no ISO instant such as 2017-10-08T00:00Z.", ctx, param
        ) from error
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


@click.command(
    "import",
    epilog="""\b
Examples:
  feedloop import movielens-100k
  feedloop import globo --until 2017-10-08
  feedloop import clicks.csv --dry-run
  feedloop import clicks.csv \\
    --map "user_id=visitor,item_id=article,occurred_at=ts,event_type='click'"
""",
)
@click.argument("source", metavar="NAME|FILE")
@click.option(
    "--map",
    "maps",
    multiple=True,
    metavar="FIELD=COLUMN,…",
    help="What fills each field of a file's rows: a column, or 'a constant' in "
    "single quotes; context.KEY=COLUMN keeps a column in the context.",
)
@click.option(
    "--into",
    type=click.Choice(list(TARGETS)),
    default=EVENTS,
    show_default=True,
    help="What the rows of a file are.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Import nothing: propose a mapping from a file's columns and values.",
)
@click.option(
    "--time-unit",
    type=click.Choice(list(UNITS)),
    help="Unit of unix times in a file; default: recognised by magnitude.",
)
@click.option(
    "--from",
    "since",
    metavar="INSTANT",
    callback=_instant,
    help="Leave out what happened before (ISO, UTC).",
)
@click.option(
    "--until",
    metavar="INSTANT",
    callback=_instant,
    help="Leave out what happened then or later (ISO, UTC).",
)
@click.option("--limit", type=click.IntRange(min=1), help="At most so many rows.")
@click.option(
    "--strict", is_flag=True, help="Import nothing where one row is bad; say which."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    source: str,
    maps: tuple[str, ...],
    into: str,
    dry_run: bool,
    time_unit: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Read a dataset into the raw tables, through the log and the loader.

    NAME is movielens-100k, globo or retailrocket, below FEEDLOOP_DATA. FILE is
    a CSV with a header, JSON lines or Parquet. Times are ISO or unix; those
    without a zone are UTC. A bad row becomes a dead letter. Importing the same
    events again stores nothing twice.
    """
    settings = from_environment()
    clock = clock_from(settings.clock_file)
    if source in DATASETS:
        if maps or dry_run or time_unit or into != EVENTS:
            raise click.UsageError(
                f"{source} is a known dataset: --map, --into, --time-unit and "
                f"--dry-run are for files (a file of that name: ./{source})."
            )
        report = import_dataset(
            settings,
            clock,
            source,
            since=since,
            until=until,
            limit=limit,
            strict=strict,
        )
    else:
        path = _file(source)
        if dry_run:
            _show(_proposal(settings, path, into), source, as_json)
            return
        if not maps:
            proposed = _proposal(settings, path, into).command(source)
            raise ImportFailed(
                f"{source} needs a mapping; from its columns it may be: {proposed}"
            )
        report = import_file(
            settings,
            clock,
            path,
            parse_map(maps, TARGETS[into]),
            time_unit=time_unit,
            cut=Cut(since, until, limit),
            strict=strict,
        )
    if as_json:
        click.echo(msgspec.json.encode(report))
        return
    click.echo(_summary(report))


def _file(source: str) -> Path:
    path = Path(source)
    if not path.exists() and path.name == source and not path.suffix:
        raise ImportFailed(
            f"There is no file {source} and no dataset of that name; the datasets "
            f"are {', '.join(DATASETS)}."
        )
    return path


def _proposal(settings: Settings, path: Path, into: str) -> Proposal:
    types = list(read_event_types(settings.seeds_dir))
    return propose(open_rows(path), TARGETS[into], types)


def _show(proposal: Proposal, source: str, as_json: bool) -> None:
    if as_json:
        mapping = {field: str(one) for field, one in proposal.sources.items()}
        click.echo(
            msgspec.json.encode(
                {
                    "into": proposal.target.stream,
                    "map": mapping,
                    "missing": proposal.missing,
                    "unused": proposal.unused,
                    "remarks": proposal.remarks,
                    "command": proposal.command(source),
                }
            )
        )
        return
    for field, one in proposal.sources.items():
        click.echo(f"{field:<24} {one}")
    for field in proposal.missing:
        click.echo(f"{field:<24} (missing)")
    for remark in proposal.remarks:
        click.echo(remark)
    click.echo(f"\nTo import it:\n  {proposal.command(source)}")


def _summary(report: ImportReport) -> str:
    sent = ", ".join(
        f"{count:,} {stream}" for stream, count in report.sent.items() if count
    )
    stored = ", ".join(
        f"{count:,} {stream}" for stream, count in report.stored.items() if count
    )
    lines = [f"{report.name}: {sent or 'no rows'} read."]
    if report.first is not None and report.last is not None:
        lines.append(
            f"They span {_short(report.first)} to {_short(report.last)} (UTC)."
        )
    lines.append(
        f"Stored: {stored or 'nothing new'}; {report.duplicates:,} were there "
        f"already; {report.dead_letters:,} became dead letters."
    )
    if report.dead_letters:
        lines.append("`feedloop dead-letters` lists them with their reasons.")
    lines.append("Next: dbt build")
    return "\n".join(lines)


def _short(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
