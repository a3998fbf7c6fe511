"""``feedloop demo``: the whole loop on this machine, in minutes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import click
import msgspec
from rich.console import Console

from feedloop.cli.demo_counts import fail_where_they_differ
from feedloop.cli.demo_story import Demo
from feedloop.errors import FeedloopError
from feedloop.settings import from_environment
from simulator.home import fresh_home
from simulator.servers import running

HOME = ".feedloop-demo"
PLAIN_WIDTH = 110
"""Columns where the output goes to a file."""


@click.command(epilog="Example: feedloop demo --keep")
@click.option(
    "--days",
    type=click.IntRange(1, 60),
    default=5,
    show_default=True,
    help="Simulated days with lists.",
)
@click.option(
    "--people",
    type=click.IntRange(10, 20_000),
    default=480,
    show_default=True,
    help="People at the start; new ones come every day.",
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option("--keep", is_flag=True, help="Leave the APIs up until Ctrl-C.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print what came out as JSON, and no story."
)
def command(days: int, people: int, seed: int, keep: bool, as_json: bool) -> None:
    """The whole loop on this machine, in minutes.

    Starts a collector, a loader and a serving API, and lets a simulated app use
    them for some days: events in, features, lists, clicks, better lists. Kill the
    loader in the middle of it if you like. Everything is kept in
    ./.feedloop-demo, which is emptied first; no process is left behind.
    """
    home = Path.cwd() / HOME
    settings = from_environment({}, home=str(home), clock_file=str(home / "clock"))
    console = Console(quiet=as_json, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    with stopped_by_signals() as stopped, fresh_home(home) as lock:
        demo = Demo(settings, days, people, seed, console)
        try:
            with running(settings, home / "logs", lock) as processes:
                report = demo.run(processes)
                if as_json:
                    click.echo(msgspec.json.encode(report))
                fail_where_they_differ(report.checks)
                if keep:
                    demo.invite_to_servers(processes)
                    wait_for_stop()
        except FeedloopError as error:
            if stopped.by is not None:
                # What a step says when a signal ends it is no news.
                raise KeyboardInterrupt from error
            raise


# --- being stopped -----------------------------------------------------------


@dataclass
class Stopped:
    by: int | None = None


@contextmanager
def stopped_by_signals() -> Iterator[Stopped]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does: tidily."""
    stopped = Stopped()

    def stop(number: int, _: FrameType | None) -> None:
        stopped.by = number
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for_stop() -> None:
    """Return on Ctrl-C: it is how a kept demo is meant to end."""
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        click.echo("Stopping.")
