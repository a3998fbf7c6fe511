"""What the demo says is what came out, also where the pipeline loses."""

from __future__ import annotations

import io

from rich.console import Console

from simulator.report import ARMS, ArmFigures, Figures, Interval
from simulator.tables import figures_tables, verdict

NAN = float("nan")


def figures(lead: Interval, ctr: float = 0.05) -> Figures:
    value = Interval(ctr, ctr - 0.01, ctr + 0.01)
    arms = {arm: ArmFigures(value, value, value) for arm in ARMS}
    return Figures("2026-01-12", arms, lead, 500, 3, 400, 200)


def test_a_lead_is_a_lead_only_where_its_interval_says_so() -> None:
    assert "were clicked more" in verdict(figures(Interval(0.01, 0.002, 0.02)))
    assert "can't be told from" in verdict(figures(Interval(0.01, -0.002, 0.02)))
    assert "LOST" in verdict(figures(Interval(-0.01, -0.02, -0.002)))


def test_the_share_of_the_oracle_is_said() -> None:
    assert "reached 100% of that" in verdict(figures(Interval(0.01, 0.002, 0.02)))


def test_nothing_to_compare() -> None:
    nothing = Interval(NAN, NAN, NAN)
    said = verdict(figures(nothing, NAN))
    assert said == ("No session was given a list, so that there is nothing to compare.")


def test_tables_fit_a_narrow_page_and_are_plain_in_a_file() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80)
    for table in figures_tables(console, [figures(Interval(0.01, -0.002, 0.02))]):
        console.print(table)
    text = file.getvalue()
    assert text.isascii()
    assert "+1.00 [-0.20, +2.00]" in text
    assert text.count("2026-01-12") == 2
