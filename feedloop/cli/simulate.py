"""``feedloop simulate``: a simulated app against a running platform."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path

import click
import msgspec
from rich.console import Console

from feedloop.clock import FileClock, SystemClock
from feedloop.contracts.seeds import read_surfaces
from feedloop.errors import SettingsError
from feedloop.settings import Settings, from_environment
from feedloop.telemetry import progress
from simulator.app import SURFACE, App
from simulator.choice import ChoiceModel
from simulator.client import Client
from simulator.outbox import Tally
from simulator.report import Figures, Scores, figures, score_day, total
from simulator.tables import figures_tables, verdict
from simulator.world import World, WorldSize

FINDS_A_SESSION = 1.2


class Report(msgspec.Struct, frozen=True):
    """What the app saw: figures by day, then together; what it sent."""

    days: list[Figures]
    together: Figures
    tally: Tally
    model_versions: list[str]


@click.command(
    epilog="Example: feedloop simulate --days 2 --people 200 --seed 7 --json"
)
@click.option("--days", type=click.IntRange(1, 366), default=1, show_default=True)
@click.option(
    "--start",
    metavar="DATE",
    help="The first simulated day, UTC; default: so that the last one is over by now.",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option(
    "--people",
    type=click.IntRange(1, 100_000),
    default=WorldSize.people,
    show_default=True,
    help="People at the start; a share of them comes every day, and new ones.",
)
@click.option(
    "--items",
    type=click.IntRange(50, 100_000),
    default=WorldSize.items,
    show_default=True,
    help="Items at the start; new ones come every day, and some go.",
)
@click.option("--collector-url", metavar="URL", help="Default: from the settings.")
@click.option("--server-url", metavar="URL", help="Default: from the settings.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    days: int,
    start: str | None,
    seed: int,
    people: int,
    items: int,
    collector_url: str | None,
    server_url: str | None,
    as_json: bool,
) -> None:
    """A simulated app that reads lists and sends events over HTTP.

    People with hidden tastes come, are shown lists, click, and find things by
    themselves; phones send late, twice or rubbish. It is a client of any
    running `feedloop collect` and `feedloop serve`. Where FEEDLOOP_CLOCK_FILE
    is set it moves that clock; else its days must be past. The same seed and
    start send the same events again, which the platform stores once. Its world
    begins at --start: give it a namespace of its own, for items of another
    world that stand in a list are unknown to it and not shown.
    """
    settings = from_environment()
    first = _first_day(settings, start, days)
    world = World(seed, first, days, WorldSize(people=people, items=items))
    collector = collector_url or _url(settings.collector_host, settings.collector_port)
    server = server_url or _url(settings.server_host, settings.server_port)
    clock = FileClock(Path(settings.clock_file)) if settings.clock_file else None
    report = asyncio.run(
        _simulate(settings, world, collector, server, clock.set if clock else None)
    )
    if as_json:
        click.echo(msgspec.json.encode(report))
        return
    console = Console(highlight=False, markup=False)
    for table in figures_tables(console, [*report.days, report.together]):
        console.print(table)
    console.print(verdict(report.together))
    tally = report.tally
    console.print(
        f"\n{tally.acknowledged} events acknowledged of {tally.sent} sent; "
        f"{tally.sent_again} sent twice, {tally.late} late, {tally.held} still on "
        f"phones; {tally.rubbish_refused} of {tally.rubbish_sent} malformed ones "
        "refused.\nNext: feedloop build"
    )


async def _simulate(
    settings: Settings,
    world: World,
    collector_url: str,
    server_url: str,
    set_clock: Callable[[datetime], None] | None,
) -> Report:
    cap = read_surfaces(settings.seeds_dir)[SURFACE].diversity_cap
    app = App(world, ChoiceModel(), cap, set_clock)
    scores: list[Scores] = []
    versions: set[str] = set()
    async with Client(settings, collector_url, server_url) as client:
        with progress("simulated hours", total=world.days * 24) as advance:
            await app.open(client)
            for day in range(world.days):
                log = await app.day(client, day, FINDS_A_SESSION, advance)
                scores.append(score_day(world, app.model, cap, log))
                versions.update(log.model_versions)
    by_day = [
        figures(str(world.date(day)), one, world.seed) for day, one in enumerate(scores)
    ]
    together = figures("together", total(scores), world.seed)
    return Report(by_day, together, app.outbox.tally, sorted(versions))


def _first_day(settings: Settings, start: str | None, days: int) -> date:
    """The day of ``start``, or a default.

    With a clock file the days lie ahead of its clock, which the app moves;
    with the system's clock they lie behind, or the collector would refuse
    their events.
    """
    try:
        given = date.fromisoformat(start) if start is not None else None
    except ValueError as error:
        raise click.BadParameter(
            f"{start!r} is not a date such as 2026-01-08.", param_hint="--start"
        ) from error
    if settings.clock_file:
        if given is not None:
            return given
        now = FileClock(Path(settings.clock_file)).now()
        return (now + timedelta(days=1, microseconds=-1)).date()
    today = SystemClock().now().date()
    if given is None:
        return today - timedelta(days=days)
    if given + timedelta(days=days) > today:
        raise SettingsError(
            f"{days} days from {given} are not over yet; choose an earlier --start, or "
            "set FEEDLOOP_CLOCK_FILE for the collector, the server and simulate."
        )
    return given


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
