"""``feedloop maintain``: compaction, snapshot expiry, orphan-file removal."""

from __future__ import annotations

from collections.abc import Iterator

import click
import msgspec

from feedloop.cli.periods import Period, StopSignal, stopped_by_signal
from feedloop.clock import SystemClock
from feedloop.contracts.tables import RAW_TABLES
from feedloop.errors import Fenced, MaintenanceFailed, TablesUnavailable
from feedloop.settings import Settings, from_environment
from feedloop.telemetry import configure_logging, log_event, progress
from loaders.maintenance import MaintenanceReport, maintain

MB = 1 << 20


@click.command(epilog="Example: feedloop maintain --every 1h")
@click.option(
    "--every",
    type=Period(),
    help="Maintain again and again, this long apart (5m, 1h), until SIGTERM.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def command(every: float | None, as_json: bool) -> None:
    """Merge small files, expire old snapshots, remove files that nothing needs.

    It may run at any time beside loaders, builds and another `feedloop
    maintain`; whichever is faster does the work. Snapshots stay readable for
    FEEDLOOP_SNAPSHOT_AGE_S after the next commit, and no file younger than
    FEEDLOOP_ORPHAN_AGE_S is removed. `feedloop load --every` does the same
    between two batches, a minute at a time.
    """
    settings = from_environment()
    if every is not None:
        configure_logging()
        maintain_every(settings, every)
        return
    reports = []
    with (
        stopped_by_signal() as stop,
        progress("Maintaining", total=len(RAW_TABLES)) as advance,
    ):
        for report in _run(settings, stop):
            reports.append(report)
            advance(1)
    if as_json:
        click.echo(msgspec.json.encode(reports))
        return
    if not reports:
        click.echo(
            f"{settings.raw_schema} holds no table yet; `feedloop load` makes them."
        )
    for report in reports:
        click.echo(_line(report))


def maintain_every(settings: Settings, period: float) -> None:
    """Maintain every ``period`` seconds until SIGTERM or SIGINT.

    It ends after the group of files under way.
    """
    with stopped_by_signal() as stop:
        while not stop.came:
            try:
                for report in _run(settings, stop):
                    log_event("maintain", "table", **msgspec.to_builtins(report))
            except (Fenced, MaintenanceFailed, TablesUnavailable) as error:
                log_event("maintain", "left out", reason=str(error))
            stop.wait(period)


def _run(settings: Settings, stop: StopSignal) -> Iterator[MaintenanceReport]:
    # the clock that dates files and commits, never a simulated one
    return maintain(settings, SystemClock().now(), go_on=lambda: not stop.came)


def _line(report: MaintenanceReport) -> str:
    moved, orphans = report.compacted, report.orphans
    return (
        f"{report.table}: {moved.files_before} files "
        f"({moved.bytes_before / MB:.1f} MB) became {moved.files_after} "
        f"({moved.bytes_after / MB:.1f} MB), {report.snapshots_expired} snapshots "
        f"expired, {orphans.files} files removed ({orphans.bytes / MB:.1f} MB)"
    )
