"""``docs/quality.md``: figures of ``feedloop evaluate`` as tables and plots."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec
from matplotlib.figure import Figure

from recommender.candidates import SOURCES
from recommender.metrics import Estimate
from recommender.sources import ANY

METRICS = ("recall@10", "ndcg@10", "recall@20", "ndcg@20", "hr@20", "mrr@20")
PLOTTED = ("recall@20", "ndcg@20")
EVERYONE = "all"
PIPELINE = "pipeline"
LEAD = "recall@20"

HEAD = """\
# Quality of the lists

Written by `feedloop evaluate`. The whole pipeline is run on public data with
`as_of` at a cut, and the lists it publishes are held against what people with
a history did after it: items they had not touched before, full ranking, items
that nobody had seen by the cut counting as misses. The lists are taken as they
are served, diversity rule and exploration slots included. The baselines get
the same interactions and leave out what a person has touched. A person's segment
is the catalogue's; where it has none, how many interactions there are of them.

In brackets: 95 % bootstrap interval over people.
"""


class Quality(msgspec.Struct, frozen=True):
    """What came out on one split: estimates by method, cohort and metric.
    ``item_cohorts``: the cohorts that cut the truth, and not the people.
    ``candidates``: how many a person has to be ranked; ``sources``: what each
    source brings of the truth (``recommender.sources``).
    ``lead``: how far the pipeline is above popularity in people's segment."""

    dataset: str
    title: str
    cut: datetime
    until: datetime
    interactions: int
    people: int
    model_version: str
    seconds: dict[str, float]
    item_cohorts: list[str]
    candidates: int
    sources: dict[str, Estimate]
    lead: dict[str, dict[str, Estimate]]
    methods: dict[str, dict[str, dict[str, Estimate]]]


def write_report(found: Sequence[Quality], path: Path) -> None:
    """Write the report to ``path`` and its plots beside it, as SVG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [HEAD]
    for quality in found:
        plot = path.with_name(f"{path.stem}-{quality.dataset}.svg")
        _plot(quality, plot)
        parts += [_section(quality, plot.name)]
    path.write_text("\n".join(parts), encoding="utf-8")


def _section(quality: Quality, plot: str) -> str:
    lines = [
        f"## {quality.title}",
        "",
        f"Cut at {quality.cut:%Y-%m-%d %H:%M} UTC, truth up to "
        f"{quality.until:%Y-%m-%d %H:%M}: {quality.interactions:,} interactions "
        f"before it, {quality.people:,} people after it. Model "
        f"`{quality.model_version}`; `dbt build` took "
        f"{quality.seconds['dbt build']:.0f} s.",
        "",
        f"![Recall and NDCG at 20 by method]({plot})",
        "",
        _table(quality, EVERYONE),
    ]
    lines += ["", *_sources(quality)]
    found = [c for c in quality.methods[PIPELINE] if c != EVERYONE]
    people = [cohort for cohort in found if cohort not in quality.item_cohorts]
    items = [cohort for cohort in found if cohort in quality.item_cohorts]
    if people:
        lines += ["", "By a person's interactions before the cut:", ""]
        lines += [_cohort_table(quality, people)]
    if items:
        lines += ["", "By an item's interactions before the cut:", ""]
        lines += [_cohort_table(quality, items)]
    return "\n".join(lines) + "\n"


def _table(quality: Quality, cohort: str) -> str:
    rows = [
        "| method | " + " | ".join(METRICS) + " |",
        "| --- |" + " --- |" * len(METRICS),
    ]
    for method, cohorts in quality.methods.items():
        figures = cohorts[cohort]
        shown = " | ".join(_figure(figures[metric]) for metric in METRICS)
        rows.append(f"| {method} | {shown} |")
    return "\n".join(rows)


def _sources(quality: Quality) -> list[str]:
    union = quality.sources[ANY]
    rows = [
        f"Of what people took, {_figure(union)} was among the "
        f"{quality.candidates} candidates that the ranker was given. From (`popular` "
        "also fills up what lacks to that number, `taste` needs a log of impressions):",
        "",
        "| source | recall | from no other source |",
        "| --- | --- | --- |",
    ]
    for source in SOURCES:
        shown = (quality.sources[f"{kind}_{source}"] for kind in ("from", "only"))
        rows.append(f"| {source} | " + " | ".join(map(_figure, shown)) + " |")
    return rows


def _cohort_table(quality: Quality, cohorts: Sequence[str]) -> str:
    rows = [
        "| interactions | people | "
        + " | ".join(f"{method} recall@20" for method in quality.methods)
        + " | above popularity in segment |",
        "| --- | --- |" + " --- |" * (len(quality.methods) + 1),
    ]
    for cohort in cohorts:
        people = quality.methods[PIPELINE][cohort]["recall@20"].users
        shown = " | ".join(
            _figure(cohorts_of[cohort]["recall@20"])
            for cohorts_of in quality.methods.values()
        )
        lead = _difference(quality.lead[cohort][LEAD])
        rows.append(f"| {cohort} | {people:,} | {shown} | {lead} |")
    return "\n".join(rows)


def _figure(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} ({estimate.low:.3f}–{estimate.high:.3f})"


def _difference(estimate: Estimate) -> str:
    return f"{estimate.mean:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"


def _plot(quality: Quality, path: Path) -> None:
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots(1, len(PLOTTED))
    names = list(quality.methods)
    for axis, metric in zip(axes, PLOTTED, strict=True):
        found = [quality.methods[name][EVERYONE][metric] for name in names]
        means = [one.mean for one in found]
        spread = [
            [one.mean - one.low for one in found],
            [one.high - one.mean for one in found],
        ]
        colours = ["tab:blue" if n == PIPELINE else "lightgrey" for n in names]
        axis.barh(names, means, xerr=spread, color=colours, capsize=3)
        axis.invert_yaxis()
        axis.set_title(metric)
    # Without a date the same figures give the same file.
    figure.savefig(path, metadata={"Date": None})
