"""``feedloop load``: micro-batches from the log into Iceberg."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click
import msgspec

from feedloop.clock import Clock, clock_from
from feedloop.errors import Fenced, LogUnavailable
from feedloop.settings import Settings, from_environment
from feedloop.telemetry import configure_logging, log_event
from loaders.loader import LoadReport, load_all

UNITS = {"s": 1, "m": 60, "h": 3600}


class Period(click.ParamType[float]):
    """``60s``, ``5m`` or ``1h`` as seconds."""

    name = "period"

    def convert(
        self,
        value: str | float,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", value)
        if found is None or float(found[1]) == 0:
            self.fail(f"{value!r} is not a period such as 60s, 5m or 1h.", param, ctx)
        return float(found[1]) * UNITS[found[2]]


@click.command(epilog="Example: feedloop load --every 60s")
@click.option(
    "--every",
    type=Period(),
    help="Load again and again, this long apart (60s, 5m, 1h), until SIGTERM.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the batches as JSON.")
def command(every: float | None, as_json: bool) -> None:
    """Bring what is in the log into the raw tables, each event exactly once.

    Without --every it loads what is there now and ends, for cron. With it,
    there is one structured line a batch, and SIGTERM ends it after the commit
    that is under way.
    """
    settings = from_environment()
    clock = clock_from(settings.clock_file)
    if every is not None:
        configure_logging()
        load_every(settings, clock, every)
        return
    reports = load_all(settings, clock)
    if as_json:
        click.echo(msgspec.json.encode(reports))
    elif not reports:
        click.echo("Nothing new in the log.")
    for report in [] if as_json else reports:
        click.echo(
            f"{report.stream}: {report.rows} rows, {report.dead_letters} dead letters, "
            f"{report.duplicates} duplicates (load_seq {report.load_seq})"
        )


def load_every(settings: Settings, clock: Clock, period: float) -> None:
    """Load every ``period`` seconds until SIGTERM or SIGINT.

    A loader that was fenced, or a log that is away, is a line and another try:
    the table tells where to go on.
    """
    with stopped_by_signal() as stopped:
        while not stopped.is_set():
            try:
                load_all(settings, clock, on_batch=_tell)
            except (Fenced, LogUnavailable) as error:
                log_event("load", "batch left out", reason=str(error))
            stopped.wait(period)


def _tell(report: LoadReport) -> None:
    log_event("load", "batch", **msgspec.to_builtins(report, str_keys=True))


@contextmanager
def stopped_by_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, instead of ending the process."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
