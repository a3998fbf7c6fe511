"""``feedloop export``: a build's lists and features to Redis, then live."""

from __future__ import annotations

import click
import msgspec

from exporters.export import export_build
from exporters.redis_store import connect, online_store
from feedloop.clock import clock_from
from feedloop.contracts.builds import newest_build
from feedloop.errors import BuildInvalid
from feedloop.settings import from_environment


@click.command(
    epilog="Example: feedloop export --build als-3f2a@20260108T000000000000Z",
    name="export",
)
@click.option("--build", "build_id", metavar="ID", help="Default: the newest build.")
@click.option(
    "--force", is_flag=True, help="Publish a build that is older than the live one."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(build_id: str | None, force: bool, as_json: bool) -> None:
    """Publish a build's lists and features to Redis and make it live."""
    settings = from_environment()
    build_id = build_id or newest_build(settings.builds_dir)
    if build_id is None:
        raise BuildInvalid(
            f"There is no build with lists in {settings.builds_dir}; run "
            "`feedloop build`, or `feedloop import` first where there is no data."
        )
    with online_store(settings) as reached, connect(reached) as client:
        report = export_build(
            reached,
            settings.builds_dir,
            build_id,
            client,
            clock_from(settings.clock_file),
            force=force,
        )
    if as_json:
        click.echo(msgspec.json.encode(report))
        return
    surfaces = ", ".join(
        f"{surface} {count:,}" for surface, count in report.lists_by_surface.items()
    )
    click.echo(
        f"Build {report.build_id} is live: lists for {surfaces}; {report.items:,} "
        f"items; features of {report.features['user']:,} users and "
        f"{report.features['item']:,} items.\nNext: feedloop serve"
    )
