"""``feedloop settings``: every setting, its value and what it is for."""

from __future__ import annotations

import click
import msgspec
from rich.console import Console
from rich.table import Table

from feedloop.settings import describe, from_environment


@click.command(epilog="Example: FEEDLOOP_NAMESPACE=staging feedloop settings --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(as_json: bool) -> None:
    """List every setting, its value and what it is for."""
    settings = from_environment()
    rows = [
        entry
        | {"value": "(secret)" if entry["secret"] else getattr(settings, entry["name"])}
        for entry in describe()
    ]
    if as_json:
        click.echo(msgspec.json.encode(rows))
        return
    table = Table("variable", "value", "what it is for")
    for row in rows:
        table.add_row(row["variable"], str(row["value"]), row["description"])
    Console().print(table)
