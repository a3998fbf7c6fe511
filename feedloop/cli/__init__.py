"""The ``feedloop`` command. Each sub-command is a module of this package, the
only place where loaders, recommender, exporters and simulator meet."""

from __future__ import annotations

import importlib
import sys

import click

from feedloop import __version__
from feedloop.errors import FeedloopError

COMMANDS = {
    "build": "The nightly run: load, dbt build, export.",
    "collect": "Serve POST /events and the catalogue: HTTP in.",
    "dead-letters": "List what the loader could not store, and try it once more.",
    "demo": "The whole loop on this machine, in minutes.",
    "evaluate": "Measure the lists on public data; write docs/quality.md.",
    "export": "Publish the newest build's lists and features to Redis.",
    "import": "Read a public or your own dataset into the raw tables.",
    "load": "One micro-batch from the log into Iceberg, or one every so often.",
    "maintain": "Merge small files, expire snapshots, remove orphan files.",
    "replay": "Load a time window of the log into a table of its own.",
    "serve": "Serve GET /recommendations: HTTP out.",
    "settings": "List every setting, its value and what it is for.",
    "simulate": "A simulated app that reads lists and sends events over HTTP.",
    "status": "Lag, tables, dead letters, and what needs doing.",
    "trace": "Follow one event: offset, row, features, list, outcome.",
    "tune": "Choose hyper-parameters on a time split of the log.",
}


class LazyGroup(click.Group):
    """Imports a sub-command's module only when it is called, so that
    ``feedloop --help`` doesn't wait for libraries it won't use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        stem = name.replace("-", "_")
        stem = f"{stem}_data" if stem == "import" else stem
        module = importlib.import_module(f"feedloop.cli.{stem}")
        command: click.Command = module.command
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: feedloop import movielens-100k && dbt build",
)
@click.version_option(__version__, prog_name="feedloop")
def group() -> None:
    """Feedloop: events in, features in SQL, ranked lists out, and back again."""


def main() -> None:
    """Run a command; a FeedloopError is one sentence on stderr and exit 1."""
    try:
        group(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.Abort:
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except FeedloopError as error:
        click.echo(f"feedloop: {error}", err=True)
        sys.exit(1)
