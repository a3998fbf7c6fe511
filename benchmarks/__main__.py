"""Run every benchmark, one after another, into ``benchmarks/results``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from benchmarks.support.report import RESULTS, ROOT


def names() -> list[str]:
    """Every module of this package but this one."""
    modules = Path(__file__).parent.glob("[!_]*.py")
    return sorted(path.stem for path in modules)


@click.command(epilog="Example: python -m benchmarks load collect --quick")
@click.argument("chosen", nargs=-1, metavar="[NAME]...")
@click.option("--quick", is_flag=True, help="Few rows; writes nothing.")
def main(chosen: tuple[str, ...], quick: bool) -> None:
    """Run the benchmarks named, or all of them."""
    for name in chosen or names():
        if name not in names():
            raise click.BadParameter(f"{name} is none of {', '.join(names())}.")
        extra = ["--quick"] if quick else ["--out", str(RESULTS / f"{name}.json")]
        command = [sys.executable, "-m", f"benchmarks.{name}", *extra]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            raise click.ClickException(f"benchmarks.{name} failed; see above.")


if __name__ == "__main__":
    main()
