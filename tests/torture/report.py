"""docs/reliability.md, from its template and what came out of a run."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from string import Template
from textwrap import fill

from benchmarks.support.report import commit, machine
from tests.support.kafka_broker import COORDINATES
from tests.torture.faults import FAULTS
from tests.torture.world import AT_ONCE, Outcome

TEMPLATE = Path(__file__).with_name("reliability.md")
BY_HAND = Path(__file__).with_name("by_hand.md")
WIDTH = 80
PACKAGES = ("pyiceberg", "kafka-python", "duckdb", "pyarrow")


def write_report(outcome: Outcome, path: Path) -> None:
    """Write the page to ``path``, atomically."""
    draft = path.with_suffix(".draft")
    draft.write_text(page(outcome))
    draft.replace(path)


def page(outcome: Outcome) -> str:
    plan, about = outcome.plan, machine()
    kafka = COORDINATES[0].rpartition(":")[2]
    versions = [f"Apache Kafka {kafka}", f"Python {platform.python_version()}"]
    versions += [f"{name} {version(name)}" for name in PACKAGES]
    brokers = (
        "one broker of Apache Kafka behind a proxy"
        if plan.nodes == 1
        else f"a cluster of {plan.nodes} brokers of Apache Kafka behind proxies"
    )
    own = sum(outcome.own_ends.values())
    began = len(outcome.starts)
    text = Template(TEMPLATE.read_text()).substitute(
        figures=_table(("what", "count"), _figures(outcome)),
        when=about["measured_at"][:10],
        commit=commit(),
        seed=plan.seed,
        minutes=f"{plan.seconds / 60:g}",
        machine=f"{about['cores']} cores ({about['cpu']})",
        versions=", ".join(versions),
        busy=f"Load average at the end: {about['load_average']}.",
        watched=f"{outcome.watched:,}",
        went_back=len(outcome.went_back) or "none",
        brokers=brokers,
        at_once=AT_ONCE,
        faults=_table(("fault", "times"), _faults(outcome)),
        resent=f"{outcome.resent:,}",
        answers=", ".join(
            f"{count:,} × {answer}" for answer, count in sorted(outcome.answers.items())
        ),
        restarts=f"{sum(outcome.starts.values()) - began:,}",
        own_ends=f", {own} of them after an error of their own" if own else "",
        by_hand=BY_HAND.read_text().strip(),
    )
    return "\n\n".join(map(_wrapped, text.split("\n\n")))


def _wrapped(block: str) -> str:
    """Paragraphs in lines of one length; all else as it is."""
    if block.startswith(("#", "|", "-", " ")):
        return block
    return fill(block, WIDTH, break_long_words=False, break_on_hyphens=False)


def _figures(outcome: Outcome) -> list[tuple[str, str]]:
    verdict, commits = outcome.verdict, outcome.commits
    loads = {name: commits[f"{name}: loads"] for name in ("events", "items")}
    others = sum(commits[f"{name}: commits"] - loads[name] for name in loads)
    numbers = [
        ("events sent", verdict.sent),
        ("of these with more than one body under one `event_id`", verdict.conflicting),
        ("records in the log (duplicates, garbage and all)", verdict.records),
        ("events acknowledged", verdict.acknowledged),
        ("rows stored", verdict.stored),
        ("**lost**", len(verdict.lost)),
        ("**stored twice**", len(verdict.doubled)),
        (
            "stored but never sent, or only in an aborted transaction",
            len(verdict.invented),
        ),
        ("rows that differ from the first record", len(verdict.changed)),
        ("dead letters", verdict.letters),
        (
            "of these lost, doubled or with other bytes",
            len(verdict.letters_lost)
            + len(verdict.letters_doubled)
            + len(verdict.letters_changed),
        ),
        (
            "versions of items lost or doubled",
            len(verdict.items_lost) + len(verdict.items_doubled),
        ),
        ("faults injected", sum(outcome.injected.values())),
        ("batches of events and items that were committed", sum(loads.values())),
        ("compactions of their tables", others),
        ("snapshots expired", outcome.expired),
        ("orphaned files removed", outcome.removed),
    ]
    return [(name, f"{number:,}") for name, number in numbers]


def _faults(outcome: Outcome) -> list[tuple[str, str]]:
    names = [fault.name for fault in FAULTS]
    return [(name, f"{outcome.injected.get(name, 0):,}") for name in names]


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---:|"]
    return "\n".join(lines + [f"| {name} | {value} |" for name, value in rows])
