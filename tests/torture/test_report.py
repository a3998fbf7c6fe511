"""docs/reliability.md is what the template and a run make of it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.torture.faults import FAULTS
from tests.torture.report import BY_HAND, TEMPLATE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"


def words(text: str) -> str:
    return " ".join(text.split())


def stand_in_order(parts: list[str], text: str) -> bool:
    """Whether the text begins and ends with, and otherwise has in their order."""
    first, *between, last = parts
    if not text.startswith(first):
        return False
    at = len(first)
    for part in between:
        found = text.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return text.endswith(last) and at + len(last) <= len(text)


def test_the_page_is_of_this_template_and_nobody_wrote_in_it() -> None:
    template = TEMPLATE.read_text().replace("$by_hand", BY_HAND.read_text())
    fixed = [words(part) for part in re.split(r"\$\w+", template)]
    assert stand_in_order(fixed, words(PAGE.read_text()))


def test_the_page_has_every_fault_and_nothing_lost() -> None:
    page = PAGE.read_text()
    for fault in FAULTS:
        line = rf"^\| {re.escape(fault.name)} \| ([\d,]+) \|$"
        (times,) = re.findall(line, page, re.M)
        assert int(times.replace(",", "")) > 0, fault.name
    for what in ("lost", "stored twice"):
        assert f"| **{what}** | 0 |" in page
