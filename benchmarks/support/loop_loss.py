"""Where the pipeline's lists lose clicks to the oracle's.

By the chance of a click that the simulator knows, not by the clicks that came of
it: the same sessions are asked what the page would have earned in its best order,
and what the best page from the whole stored list would have. What lies between
the page and its best order was lost in the order, up to the best page from the
list in the choice among what was listed, up to the oracle before that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from feedloop.cli.demo_story import Demo
from feedloop.contracts.lists import COLD_USER
from loaders.duckdb_plugin import raw_views
from simulator.app import SURFACE, DayLog
from simulator.choice import NOTHING, chance
from simulator.pages import oracle_pages
from simulator.report import ARMS, PIPELINE, Scores
from simulator.world import Bools, Floats, Ints, midnight

NEW_DAYS = 7
"""Whoever signed up on the day or on one of so many before it is new."""


def loss(demo: Demo, last: int) -> dict[str, float]:
    """Over the ``last`` days, expected clicks as a share of the oracle's: of the
    page ``shown``, ``reordered`` and best ``of_list``; and of what was shown to
    ``newcomers`` and to ``others``."""
    lists = _lists(demo)
    sums: dict[str, Floats] = {}
    for log in demo.logs[-last:]:
        served = np.flatnonzero(log.served)
        people = log.plan.person[served]
        joined = demo.world.people.joined_day[people]
        new = joined >= log.plan.day - NEW_DAYS
        for name, pages in _pages(demo, log, served, lists).items():
            expected = _expected(demo, log, people, pages)
            kinds = [expected.sum(), expected[new].sum(), expected[~new].sum()]
            sums[name] = sums.get(name, np.zeros(3)) + kinds
    oracle = sums.pop("oracle")
    found = {name: float(value[0] / oracle[0]) for name, value in sums.items()}
    for at, kind in enumerate(("newcomers", "others"), 1):
        if oracle[at]:
            found[kind] = float(sums["shown"][at] / oracle[at])
    return found


def expected_scores(demo: Demo) -> Sequence[Scores]:
    """Each day's scores with the clicks that were to be expected of what the
    pipeline showed in place of those that came: the same in the mean, without the
    luck of the draw."""
    row = ARMS.index(PIPELINE)
    found = []
    for log, scores in zip(demo.logs, demo.scores, strict=True):
        served = np.flatnonzero(log.served)
        people = log.plan.person[served]
        clicks = scores.clicks.copy()
        worth = _expected(demo, log, people, log.pages[served])
        clicks[row] = np.bincount(people, worth, clicks.shape[1])
        found.append(replace(scores, clicks=clicks))
    return found


def _pages(
    demo: Demo, log: DayLog, served: Ints, lists: dict[tuple[int, str], list[int]]
) -> dict[str, Ints]:
    """What each served session was shown, and what it could have been."""
    world, morning = demo.world, log.morning
    people = log.plan.person[served]
    shown = log.pages[served]
    chances = _chances(demo, log, people)
    worth = np.where(
        shown == NOTHING, -1, np.take_along_axis(chances, np.maximum(shown, 0), 1)
    )
    best = np.argsort(-worth, axis=1, kind="stable")
    visitors, row = np.unique(people, return_inverse=True)
    listed = np.zeros((len(visitors), len(world.items.ids)), np.bool_)
    for at, person in enumerate(visitors.tolist()):
        name = world.people.ids[person]
        day = morning.day
        listed[at, lists.get((day, name), lists.get((day, COLD_USER), []))] = True
    return {
        "shown": shown,
        "reordered": np.take_along_axis(shown, best, axis=1),
        "of_list": _oracle(demo, log, visitors, listed)[row],
        "oracle": _oracle(demo, log, visitors, None)[row],
    }


def _oracle(demo: Demo, log: DayLog, people: Ints, among: Bools | None) -> Ints:
    return oracle_pages(
        demo.world, demo.app.model, log.morning, people, demo.cap, among
    )


def _chances(demo: Demo, log: DayLog, people: Ints) -> Floats:
    """[sessions, items of the day] Of a click by somebody who looks."""
    model, morning = demo.app.model, log.morning
    appeal = model.appeal(demo.world, morning.day, people)
    dull = morning.clicked[people, : appeal.shape[1]]
    return chance(appeal - model.dullness * dull)


def _expected(demo: Demo, log: DayLog, people: Ints, pages: Ints) -> Floats:
    """[sessions] Clicks to be expected of ``pages``."""
    chances = _chances(demo, log, people)
    wanted = np.take_along_axis(chances, np.maximum(pages, 0), axis=1)
    wanted = np.where(pages == NOTHING, 0, wanted)
    expected: Floats = wanted @ demo.app.model.examination()
    return expected


def _lists(demo: Demo) -> dict[tuple[int, str], list[int]]:
    """The item rows of every stored list by day and person."""
    row = {item: at for at, item in enumerate(demo.world.items.ids)}
    start = midnight(demo.world.start)
    with raw_views(demo.settings) as connection:
        found = connection.execute(
            "select user_id, item_ids, generated_at from lists where surface = ?",
            [SURFACE],
        ).fetchall()
    return {
        ((at - start).days, user): [row[item] for item in items if item in row]
        for user, items, at in found
    }
