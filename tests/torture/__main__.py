"""``python -m tests.torture``: everything goes wrong at once, for minutes."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from pathlib import Path

import click

from tests.torture.report import write_report
from tests.torture.world import Plan, World


@click.command(epilog="Example: python -m tests.torture --minutes 5 --seed 7")
@click.option("--minutes", type=click.FloatRange(0.1), default=5.0, show_default=True)
@click.option("--seed", type=int, help="Reproduces a schedule; default: a new one.")
@click.option("--brokers", type=click.IntRange(1, 5), default=3, show_default=True)
@click.option("--loaders", type=click.IntRange(1, 5), default=3, show_default=True)
@click.option(
    "--rate", type=click.FloatRange(1), default=150.0, help="Events a second."
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what came out there, as Markdown.",
)
def command(
    minutes: float,
    seed: int | None,
    brokers: int,
    loaders: int,
    rate: float,
    report: Path | None,
) -> None:
    """Faults at random against real processes, then the count of both ends.

    Exit code 0 only where nothing was lost, doubled or changed. What ran stays
    in a temporary folder where something was.
    """
    seed = secrets.randbelow(2**31) if seed is None else seed
    click.echo(f"seed {seed}")
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    plan = Plan(seed, minutes * 60, nodes=brokers, loaders=loaders, rate=rate)
    outcome = World(plan, folder, click.echo).run()
    if report is not None:
        write_report(outcome, report)
    verdict = outcome.verdict
    click.echo(
        f"{verdict.acknowledged} events acknowledged, {verdict.stored} stored, "
        f"{len(verdict.lost)} lost, {len(verdict.doubled)} doubled; "
        f"{sum(outcome.injected.values())} faults"
    )
    for words, count in outcome.own_ends.items():
        click.echo(f"{count} × ended by itself: {words}")
    found = outcome.faults()
    if found:
        raise click.ClickException(f"Something is wrong: {found}; see {folder}.")
    shutil.rmtree(folder)


if __name__ == "__main__":
    command()
