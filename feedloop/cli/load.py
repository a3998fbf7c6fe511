"""``feedloop load``: micro-batches from the log into Iceberg."""

from __future__ import annotations

import getpass
import socket
import sys
import time
from contextlib import closing
from datetime import timedelta

import click
import msgspec

from feedloop.cli.periods import Period, StopSignal, stopped_by_signal
from feedloop.clock import Clock, SystemClock, clock_from
from feedloop.contracts.log import STREAMS
from feedloop.errors import (
    Fenced,
    LogUnavailable,
    LossNotAccepted,
    MaintenanceFailed,
    ReaderLost,
    TablesUnavailable,
)
from feedloop.settings import Settings, from_environment
from feedloop.telemetry import configure_logging, log_event, progress
from loaders.iceberg import ensure_tables, open_catalog
from loaders.loader import LoadReport, load_all
from loaders.log import open_log
from loaders.losses import Loss, Losses
from loaders.maintenance import maintain

MAINTENANCE_S = 60.0
"""What maintenance may take of the loader's time at once."""


@click.command(epilog="Example: feedloop load --every 60s")
@click.option(
    "--every",
    type=Period(),
    help="Load again and again, this long apart (60s, 5m, 1h), until SIGTERM.",
)
@click.option(
    "--accept-loss",
    "accept",
    multiple=True,
    type=click.Choice(STREAMS),
    help="Go on with this stream from what the log has, writing down what is skipped.",
)
@click.option("--yes", is_flag=True, help="Accept the loss without being asked.")
@click.option("--json", "as_json", is_flag=True, help="Print the batches as JSON.")
def command(
    every: float | None, accept: tuple[str, ...], yes: bool, as_json: bool
) -> None:
    """Bring what is in the log into the raw tables, each event exactly once.

    Without --every it loads what is there now and ends, for cron. With it,
    there is one structured line a batch, and SIGTERM ends it after the commit
    that is under way. Between two batches it maintains the tables every so
    often (FEEDLOOP_MAINTAIN_EVERY_S), a minute at a time.

    Where the log no longer has what comes next, loading is refused. With
    --accept-loss it says what will be skipped, asks, writes it to
    raw.accepted_losses and loads what there is.
    """
    settings = from_environment()
    clock = clock_from(settings.clock_file)
    if accept and every is not None:
        raise click.UsageError("Accept a loss first, then load with --every.")
    for stream in accept:
        accept_loss(settings, clock, stream, yes)
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


def accept_loss(settings: Settings, clock: Clock, stream: str, yes: bool) -> None:
    """Say what loading ``stream`` will skip, ask unless ``yes``, and move on.

    Raises ``LossNotAccepted`` where nobody is there to ask.
    """
    catalog = open_catalog(settings)
    ensure_tables(catalog, settings)
    with closing(open_log(settings, clock)) as log:
        losses = Losses(settings, catalog, log, stream)
        found = losses.find()
        if not found:
            click.echo(f"{stream}: nothing is lost.", err=True)
            return
        for loss in found:
            click.echo(
                f"{stream}, partition {loss.partition}: {_skipped(loss)}.", err=True
            )
        if not yes:
            if not sys.stdin.isatty():
                raise LossNotAccepted(
                    f"Nothing was accepted for {stream}: nobody is here to be asked; "
                    "say --yes as well if that is to be skipped."
                )
            click.confirm("Go on without these records?", abort=True, err=True)
        losses.accept(clock.now(), f"{getpass.getuser()}@{socket.gethostname()}")


def _skipped(loss: Loss) -> str:
    if loss.resume is None:
        where = "it is left out"
    else:
        where = f"loading goes on at offset {loss.resume}"
    return f"{loss.detail}; {where}"


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
    that was fenced, a log or a catalog that is away or a disk that is full is a
    line and another try: the table tells where to go on.
    """
    with stopped_by_signal() as stop:
        upkeep = _Upkeep(settings, stop)

        def tell(report: LoadReport) -> None:
            lag = clock.now() - report.newest if report.newest else timedelta(0)
            fields = msgspec.to_builtins(report, str_keys=True)
            log_event("load", "batch", **fields, lag_s=lag.total_seconds())
            if stop.came:
                raise _Stopped
            upkeep.when_due()

        while not stop.came:
            try:
                load_all(settings, clock, on_batch=tell)
            except (Fenced, LogUnavailable, ReaderLost, TablesUnavailable) as error:
                log_event("load", "batch left out", reason=str(error))
            except _Stopped:
                return
            upkeep.when_due()
            stop.wait(period)


class _Upkeep:
    """Maintenance between two batches, a minute at a time."""

    def __init__(self, settings: Settings, stop: StopSignal) -> None:
        self._settings = settings
        self._stop = stop
        self._done = time.monotonic()

    def when_due(self) -> None:
        every = self._settings.maintain_every_s
        if self._stop.came or not 0 < every <= time.monotonic() - self._done:
            return
        deadline = time.monotonic() + MAINTENANCE_S

        def go_on() -> bool:
            return not self._stop.came and time.monotonic() < deadline

        try:
            # the clock that dates files and commits, never a simulated one
            for report in maintain(self._settings, SystemClock().now(), go_on=go_on):
                log_event("load", "maintenance", **msgspec.to_builtins(report))
        except (Fenced, MaintenanceFailed, TablesUnavailable) as error:
            log_event("load", "maintenance left out", reason=str(error))
        self._done = time.monotonic()


class _Stopped(Exception):
    """The batch that was under way is committed; there is to be no other."""
