"""``feedloop collect``: events, items and users in over HTTP."""

from __future__ import annotations

from contextlib import closing

import click

from feedloop import server
from feedloop.clock import clock_from
from feedloop.settings import from_environment
from feedloop.telemetry import configure_logging
from loaders.collector import create_app
from loaders.log import open_log


@click.command(epilog="Example: feedloop collect --port 8080", name="collect")
@click.option("--host", help="Address to bind; default: FEEDLOOP_COLLECTOR_HOST.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="0 takes a free one; default: FEEDLOOP_COLLECTOR_PORT.",
)
def command(host: str | None, port: int | None) -> None:
    """Serve POST /events, PUT /items and PUT /users until it is told to stop."""
    settings = from_environment()
    configure_logging()
    clock = clock_from(settings.clock_file)
    with closing(open_log(settings, clock)) as log:
        server.serve(
            create_app(settings, log, clock),
            host or settings.collector_host,
            settings.collector_port if port is None else port,
        )
