"""The whole loop for weeks of simulated days, with exploration and without.

Events over HTTP, loader, nightly dbt build, export, serving API, and people
who react to what they are shown: as in `make demo`, twice side by side, on the
same people and with the same draws. One of the two gives no slot to exploration.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.csv
from rich.console import Console

from benchmarks.support.loop_loss import expected_scores, loss
from benchmarks.support.report import Figure, benchmark
from feedloop.cli.demo_counts import fail_where_they_differ
from feedloop.cli.demo_story import Demo
from feedloop.settings import from_environment
from feedloop.telemetry import console
from simulator.app import SURFACE
from simulator.home import fresh_home
from simulator.report import (
    ORACLE,
    PIPELINE,
    POPULARITY,
    ArmFigures,
    Scores,
    figures,
    gain,
    total,
)
from simulator.servers import running
from tests.support.project_copy import copy_project

# what is learned of an item serves everybody: 2,400 people gave .775 of the oracle's
# clicks where these gave .810
DAYS, WEEK, PEOPLE = 21, 7, 6000
QUICK_DAYS, QUICK_PEOPLE = 2, 60
SEED = 1
EXPLORING, WITHOUT = "exploring", "without"


@dataclass(frozen=True)
class Lived:
    """What an arm leaves: each day's clicks, those that were to be expected,
    where the last days lost some (asked of the exploring one), and how long it
    took."""

    clicked: list[Scores]
    expected: Sequence[Scores]
    losses: dict[str, float]
    seconds: float


def without_exploration(project: Path) -> None:
    """Take the slots from the surface in the project's seed."""
    path = project / "seeds" / "surfaces.csv"
    seed = pyarrow.csv.read_csv(path)
    slots = seed.schema.get_field_index("exploration_slots")
    ours = pc.equal(seed["surface"], SURFACE)
    seed = seed.set_column(
        slots, "exploration_slots", pc.if_else(ours, 0, seed["exploration_slots"])
    )
    pyarrow.csv.write_csv(seed, path, pyarrow.csv.WriteOptions(quoting_style="needed"))


def _lived(folder: Path, days: int, people: int, *, exploring: bool) -> Lived:
    """The days, lived in ``folder``; counted at both ends."""
    project = copy_project(folder / "project")
    if not exploring:
        without_exploration(project)
    home = folder / "home"
    settings = from_environment(
        {}, home=str(home), clock_file=str(home / "clock"), project_dir=str(project)
    )
    with fresh_home(home) as lock:
        demo = Demo(settings, days, people, SEED, Console(quiet=True))
        with running(settings, home / "logs", lock) as processes:
            fail_where_they_differ(demo.run(processes).checks)
    return Lived(
        clicked=demo.scores,
        expected=expected_scores(demo),
        losses=loss(demo, min(WEEK, days)) if exploring else {},
        seconds=sum(demo.seconds.values()),
    )


def _arms(lived: Lived, last: int) -> dict[str, ArmFigures]:
    return figures("", total(lived.clicked[-last:]), SEED).arms


def _gain(
    key: str, scores: Mapping[str, Sequence[Scores]], last: int, of: str, goal: str = ""
) -> list[Figure]:
    exploring, without = (total(scores[arm][-last:]) for arm in (EXPLORING, WITHOUT))
    found = gain(exploring, without, SEED)
    meaning = f"last {last} days: {of} with exploration over without, less 1"
    return [
        Figure(key, found.value, meaning, goal),
        Figure(f"{key}.low", found.low, "95 % interval, people resampled"),
        Figure(f"{key}.high", found.high, "95 % interval, people resampled"),
    ]


@benchmark("loop", ["dbt-core", "dbt-duckdb", "implicit", "xgboost-cpu", "pyiceberg"])
def main(quick: bool) -> list[Figure]:
    """21 days of lists, clicks and better lists, beside an oracle."""
    days, people = (QUICK_DAYS, QUICK_PEOPLE) if quick else (DAYS, PEOPLE)
    lived = {}
    with (
        tempfile.TemporaryDirectory(prefix="feedloop-bench-") as name,
        ProcessPoolExecutor(2, get_context("spawn")) as pool,
    ):
        living = {
            arm: pool.submit(
                _lived, Path(name) / arm, days, people, exploring=arm == EXPLORING
            )
            for arm in (EXPLORING, WITHOUT)
        }
        for arm, future in living.items():
            lived[arm] = future.result()
            console.print(f"{arm}: {days} days in {lived[arm].seconds:.0f} s")
    week = min(WEEK, days)
    lately = {arm: row.ctr.value for arm, row in _arms(lived[EXPLORING], week).items()}
    clicked = {arm: one.clicked for arm, one in lived.items()}
    expected = {arm: one.expected for arm, one in lived.items()}
    return [
        Figure("people", people, "simulated, and more who sign up each day"),
        Figure(
            "ctr_ratio_to_oracle",
            lately[PIPELINE] / lately[ORACLE],
            f"last {week} days; the oracle knows the tastes",
            "≥ 0.8",
        ),
        Figure(
            "ctr_ratio_to_popularity",
            lately[PIPELINE] / lately[POPULARITY],
            f"last {week} days",
            "> 1",
        ),
        *_gain("exploration_gain", clicked, days, "click-through", "> 0"),
        *_gain("exploration_gain_late", clicked, week, "click-through"),
        *_gain("exploration_gain_expected", expected, days, "expected clicks"),
        *_gain("exploration_gain_late_expected", expected, week, "expected clicks"),
        *(
            Figure(f"ctr.{arm}", value, f"last {week} days")
            for arm, value in lately.items()
        ),
        Figure(
            "ctr.without_exploration",
            _arms(lived[WITHOUT], week)[PIPELINE].ctr.value,
            f"last {week} days",
        ),
        *(
            Figure(
                f"expected_to_oracle.{name}",
                value,
                f"last {week} days; expected clicks over the oracle's",
            )
            for name, value in lived[EXPLORING].losses.items()
        ),
    ]


if __name__ == "__main__":
    main()
