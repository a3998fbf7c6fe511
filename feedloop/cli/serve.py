"""``feedloop serve``: GET /recommendations and GET /features over HTTP."""

from __future__ import annotations

import click

from exporters.redis_store import online_store
from exporters.serving import create_app
from feedloop import server
from feedloop.clock import clock_from
from feedloop.settings import from_environment
from feedloop.telemetry import configure_logging


@click.command(epilog="Example: feedloop serve --port 8081", name="serve")
@click.option("--host", help="Address to bind; default: FEEDLOOP_SERVER_HOST.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="0 takes a free one; default: FEEDLOOP_SERVER_PORT.",
)
def command(host: str | None, port: int | None) -> None:
    """Serve ranked lists and features until it is told to stop.

    Without FEEDLOOP_REDIS_URL a redis-server of its own runs beside it.
    """
    settings = from_environment()
    configure_logging()
    with online_store(settings) as reached:
        server.serve(
            create_app(reached, clock_from(settings.clock_file)),
            host or settings.server_host,
            settings.server_port if port is None else port,
        )
