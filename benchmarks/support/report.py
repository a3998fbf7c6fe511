"""One result a benchmark: a table for people, JSON for whoever compares."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
from rich.console import Console
from rich.table import Table

from feedloop.errors import FeedloopError

ROOT = Path(__file__).resolve().parents[2]
PLAIN_WIDTH = 110
"""Columns where the output goes to a file."""
RESULTS = ROOT / "benchmarks" / "results"


class Figure(NamedTuple):
    """``key`` is stable: results are compared by it. ``goal``: "≥ 3", or ""."""

    key: str
    value: float
    meaning: str
    goal: str = ""


def machine() -> dict[str, Any]:
    """What the figures were taken on, load included."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in _lines("/proc/cpuinfo")
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory_kb = next((int(line.split()[1]) for line in _lines("/proc/meminfo")), None)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gb": round(memory_kb / 2**20, 1) if memory_kb else None,
        "system": platform.system(),
        "load_average": round(os.getloadavg()[0], 2),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


def commit() -> str:
    """The commit measured, with ``-dirty`` where code differs from it."""
    described = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    changed = subprocess.run(
        [
            *("git", "-C", str(ROOT), "status", "--porcelain", "--"),
            *(".", ":!docs", ":!benchmarks/results"),
        ],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return f"{described}-dirty" if changed else described


def report(
    name: str, figures: Sequence[Figure], packages: Sequence[str], out: Path | None
) -> None:
    """Print ``figures`` and, where ``out`` is given, write them there.

    ``packages``: distributions whose versions matter to the figures.
    """
    table = Table(title=name)
    for column in ("figure", "value", "goal"):
        table.add_column(column, no_wrap=True)
    table.add_column("meaning", overflow="fold")
    for figure in figures:
        table.add_row(figure.key, f"{figure.value:,.4g}", figure.goal, figure.meaning)
    console = Console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(table)
    if out is None:
        return
    result = {
        "name": name,
        "figures": {figure.key: float(f"{figure.value:.6g}") for figure in figures},
        "machine": machine(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in packages},
        "commit": commit(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_suffix(".draft")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2))
    draft.replace(out)


def benchmark(
    name: str, packages: Sequence[str]
) -> Callable[[Callable[[bool], Sequence[Figure]]], click.Command]:
    """Make the command of a benchmark from the function that measures.

    It is called with whether to be quick: fewer rows and rounds, to see that
    it runs; its figures are not to be quoted.
    """

    def decorate(measure: Callable[[bool], Sequence[Figure]]) -> click.Command:
        @click.command(
            name=name,
            help=measure.__doc__,
            epilog=f"Example: python -m benchmarks.{name} --quick",
        )
        @click.option("--quick", is_flag=True, help="Few rows; only to see it run.")
        @click.option(
            "--out",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Write the figures there as JSON.",
        )
        def command(quick: bool, out: Path | None) -> None:
            try:
                report(name, measure(quick), packages, out)
            except FeedloopError as error:
                raise click.ClickException(str(error)) from error

        return command

    return decorate
