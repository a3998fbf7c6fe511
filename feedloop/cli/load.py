"""``feedloop load``: micro-batches from the log into Iceberg."""

from __future__ import annotations

import os
import re
import select
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import FrameType

import click
import msgspec

from feedloop.clock import Clock, clock_from
from feedloop.contracts.log import STREAMS
from feedloop.errors import Fenced, LogUnavailable
from feedloop.settings import Settings, from_environment
from feedloop.telemetry import configure_logging, log_event, progress
from loaders.loader import LoadReport, load_all
from loaders.log import open_log

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
    with progress("Loading", total=None) as advance:
        reports = load_all(settings, clock, on_batch=lambda one: advance(one.records))
    if as_json:
        click.echo(msgspec.json.encode(reports))
        return
    if not reports:
        click.echo(_why_nothing(settings, clock))
    for report in reports:
        click.echo(
            f"{report.stream}: {report.rows} rows, {report.dead_letters} dead letters, "
            f"{report.duplicates} duplicates (load_seq {report.load_seq})"
        )
    if any(report.dead_letters for report in reports):
        click.echo("See what could not be stored with: feedloop dead-letters")


def _why_nothing(settings: Settings, clock: Clock) -> str:
    with closing(open_log(settings, clock)) as log:
        if any(log.state(settings.topic(stream)) for stream in STREAMS):
            return "Nothing new in the log."
    return (
        f"The log has no topic of {settings.namespace} yet; `feedloop collect` and "
        "`feedloop import` make them."
    )


def load_every(settings: Settings, clock: Clock, period: float) -> None:
    """Load every ``period`` seconds until SIGTERM or SIGINT.

    It ends after the batch under way, however much is left to load. A loader
    that was fenced, or a log that is away, is a line and another try: the
    table tells where to go on.
    """
    with stopped_by_signal() as stop:

        def tell(report: LoadReport) -> None:
            log_event("load", "batch", **msgspec.to_builtins(report, str_keys=True))
            if stop.came:
                raise _Stopped

        while not stop.came:
            try:
                load_all(settings, clock, on_batch=tell)
            except (Fenced, LogUnavailable) as error:
                log_event("load", "batch left out", reason=str(error))
            except _Stopped:
                return
            stop.wait(period)


class _Stopped(Exception):
    """The batch that was under way is committed; there is to be no other."""


class StopSignal:
    """Whether SIGTERM or SIGINT came, and a wait that they end."""

    def __init__(self) -> None:
        self.came = False
        # A lock that the main thread may hold can't be taken in a handler.
        self._woken, self._wake = os.pipe()

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        os.write(self._wake, b"!")

    def wait(self, seconds: float) -> None:
        select.select([self._woken], [], [], seconds)

    def close(self) -> None:
        os.close(self._woken)
        os.close(self._wake)


@contextmanager
def stopped_by_signal() -> Iterator[StopSignal]:
    """SIGTERM and SIGINT are noted, instead of ending the process."""
    stop = StopSignal()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, stop.handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()
