"""``feedloop build``: the nightly run, load to export, as one step.

The order is what makes it safe: what is not loaded can't be built, what fails
a test is not published, what is not in ``raw.lists`` is not served.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from exporters.export import export_build
from exporters.redis_store import connect, online_store
from feedloop.cli.dbt_run import keep_state, run_dbt
from feedloop.clock import Clock, clock_from
from feedloop.contracts.builds import newest_build
from feedloop.errors import Fenced, WarehouseEmpty
from feedloop.settings import Settings, from_environment
from loaders.loader import LoadReport, load_all
from loaders.publish import append_build

# They test the SQL, not the night's data: CI runs them.
WITHOUT_UNIT_TESTS = ("--exclude-resource-type", "unit_test")
LOAD_ATTEMPTS = 20


class NightlyReport(msgspec.Struct, frozen=True):
    """What one nightly run did, without what a loader beside it had loaded.
    Durations in seconds, by step."""

    build_id: str
    as_of: datetime
    loaded: int
    dead_letters: int
    lists: int
    seconds: dict[str, float]


def nightly(
    settings: Settings,
    clock: Clock,
    as_of: datetime | None = None,
    *,
    variables: Mapping[str, Any] | None = None,
) -> NightlyReport:
    """Load what is in the log, build, publish and export.

    ``as_of`` None is the end of the data. Repeating a run, also one that was
    killed, gives the same content.
    """
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - started, 2)

    with step("load"):
        loaded = load_beside_others(settings, clock)
    variables = dict(variables or {})
    if as_of is not None:
        variables["as_of"] = as_of.astimezone(UTC).isoformat(sep=" ")
    with step("dbt"):
        run_dbt(settings, "build", *WITHOUT_UNIT_TESTS, variables=variables)
        keep_state(settings)
    build_id = newest_build(settings.builds_dir)
    if build_id is None:
        raise WarehouseEmpty(
            f"dbt passed but {settings.builds_dir} holds no build; is rec_publication "
            "disabled?"
        )
    with step("publish"):
        append_build(settings, settings.builds_dir, build_id)
    with step("export"), online_store(settings) as reached, connect(reached) as redis:
        exported = export_build(reached, settings.builds_dir, build_id, redis, clock)
    return NightlyReport(
        build_id=build_id,
        as_of=exported.as_of,
        loaded=sum(report.rows for report in loaded),
        dead_letters=sum(report.dead_letters for report in loaded),
        lists=exported.lists,
        seconds=seconds,
    )


def load_beside_others(settings: Settings, clock: Clock) -> list[LoadReport]:
    """Load all there is, also where a running loader is faster now and then.

    The reports are those of the batches that were loaded here.
    """
    reports: list[LoadReport] = []
    for attempt in range(1, LOAD_ATTEMPTS + 1):
        try:
            load_all(settings, clock, on_batch=reports.append)
            break
        except Fenced:
            if attempt == LOAD_ATTEMPTS:
                raise
    return reports


@click.command(
    epilog="Example: feedloop build --as-of 2026-01-08T00:00:00Z", name="build"
)
@click.option(
    "--as-of",
    metavar="INSTANT",
    help="The instant the run stands at (ISO, UTC); default: the end of the data.",
)
@click.option(
    "--vars", "variables", metavar="JSON", help="dbt variables, as a JSON object."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(as_of: str | None, variables: str | None, as_json: bool) -> None:
    """The nightly run: load, dbt build, publish, export to Redis."""
    settings = from_environment()
    report = nightly(
        settings,
        clock_from(settings.clock_file),
        parse_instant(as_of) if as_of else None,
        variables=parse_object(variables) if variables else None,
    )
    if as_json:
        click.echo(msgspec.json.encode(report))
        return
    click.echo(
        f"Build {report.build_id}: {report.loaded} rows loaded, "
        f"{report.dead_letters} dead letters, {report.lists} lists exported "
        f"({', '.join(f'{k} {v:.1f} s' for k, v in report.seconds.items())}).\n"
        "Next: feedloop serve"
    )


def parse_instant(text: str) -> datetime:
    """An ISO instant; without a zone it is UTC."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is not an ISO instant such as 2026-01-08T00:00:00Z."
        ) from error
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant


def parse_object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"{text!r} is not a JSON object: {error}.") from error
