"""The figures as tables for people: boxes in a terminal, plain text elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from simulator.choice import PAGE
from simulator.report import (
    ARMS,
    ORACLE,
    PIPELINE,
    POPULARITY,
    Figures,
    Following,
    Interval,
)


def table(console: Console, *columns: str, title: str | None = None) -> Table:
    """An empty table that suits ``console``."""
    style = box.SIMPLE_HEAD if console.is_terminal else box.ASCII
    made = Table(title=title, box=style, title_justify="left")
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number == 0 else "right")
    return made


def figures_tables(console: Console, days: Sequence[Figures]) -> list[Table]:
    """Click-through by day and arm, then recall and NDCG."""
    clicks = table(
        console,
        "day",
        *ARMS,
        "pipeline - popularity",
        title="Clicks per item shown, the same people and draws in every column",
    )
    found = table(
        console,
        "day",
        *ARMS,
        title=f"Recall / NDCG@{PAGE}: was on the list what people found by themselves?",
    )
    for day in days:
        clicks.add_row(
            day.title,
            *(_share(day.arms[arm].ctr.value) for arm in ARMS),
            _range(day.lead),
        )
        found.add_row(
            day.title,
            *(
                f"{_three(day.arms[arm].recall.value)} / "
                f"{_three(day.arms[arm].ndcg.value)}"
                for arm in ARMS
            ),
        )
    return [clicks, found]


def verdict(together: Figures) -> str:
    """What the figures of all days say, in sentences, whichever way."""
    pipeline, popularity = together.arms[PIPELINE].ctr, together.arms[POPULARITY].ctr
    if math.isnan(pipeline.value):
        return "No session was given a list, so that there is nothing to compare."
    lead = together.lead
    if lead.low > 0:
        outcome = "were clicked more than the popularity list"
    elif lead.high < 0:
        outcome = "LOST to the popularity list"
    else:
        outcome = "can't be told from the popularity list"
    sentence = (
        f"The pipeline's lists {outcome}: {_share(pipeline.value)} of what was shown "
        f"was clicked, against {_share(popularity.value)} (difference {_range(lead)} "
        f"points, 95 % interval over {together.people} people)."
    )
    oracle = together.arms[ORACLE].ctr.value
    if oracle > 0:
        sentence += (
            f" One who knew everybody's taste would have got {_share(oracle)}; the "
            f"pipeline reached {pipeline.value / oracle:.0%} of that."
        )
    if together.judged:
        ours, theirs = (together.arms[arm].recall for arm in (PIPELINE, POPULARITY))
        sentence += (
            f" Of what people found by themselves {_span(ours)} stood on the "
            f"pipeline's page of {PAGE}, {_span(theirs)} on the popularity list's."
        )
    return sentence


def follow_sentence(following: Following) -> str:
    """Whether lists change with what people click, in a sentence."""

    def change(pair: tuple[float, float]) -> str:
        return f"from {pair[0]:.2f} to {pair[1]:.2f} items"

    return (
        "Lists after clicks: a category that people clicked on their list went "
        f"{change(following.clicked)} of {PAGE} the next time they came "
        f"({following.pairs[0]} cases), one that they passed over "
        f"{change(following.passed_over)} ({following.pairs[1]} cases); what was "
        "clicked itself doesn't come back."
    )


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2%}"


def _span(interval: Interval) -> str:
    low, high = (f"{100 * value:.1f}" for value in (interval.low, interval.high))
    return f"{interval.value:.1%} [{low}, {high}]"


def _three(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _range(interval: Interval) -> str:
    if math.isnan(interval.value):
        return "-"
    points = (100 * value for value in (interval.value, interval.low, interval.high))
    value, low, high = (f"{point:+.2f}" for point in points)
    return f"{value} [{low}, {high}]"
