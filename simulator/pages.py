"""The lists that the pipeline's are compared with, under the same rules.

Each is made in the morning for the day's visitors from active items that the
visitor has not clicked as far as the app knows, with at most ``cap`` items of
one public category in ten positions (0: no cap), as the surface's seed has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.choice import NOTHING, PAGE, ChoiceModel
from simulator.world import Bools, Floats, Ints, World, generator

CAP_BLOCK = 10


@dataclass(frozen=True)
class Morning:
    """What is so at the midnight before a day.

    ``clicked`` [people, items] is the truth and decides what is dull;
    ``known_clicked`` the part that has reached the collector, which the rules
    go by. ``recent_clicks`` [items] counts the clicks that arrived in the last
    days: popularity as an app can know it.
    """

    day: int
    clicked: Bools
    known_clicked: Bools
    recent_clicks: Ints


def popularity_pages(world: World, morning: Morning, people: Ints, cap: int) -> Ints:
    """[people, PAGE] The most clicked of the last days; ties by age."""
    score = np.broadcast_to(
        morning.recent_clicks.astype(np.float64),
        (len(people), len(morning.recent_clicks)),
    )
    return _pages(world, morning, people, score, cap)


def random_pages(world: World, morning: Morning, people: Ints, cap: int) -> Ints:
    """[people, PAGE] Any items, drawn anew for each person and day."""
    ordinal = world.date(morning.day).toordinal()
    rng = generator(world.seed, "random-list", ordinal)
    count = world.catalogue(morning.day)
    # Drawn for everyone, so that a person's list doesn't depend on who comes.
    luck = rng.random((world.population(morning.day), count))
    score = np.full((len(people), len(morning.recent_clicks)), -np.inf)
    score[:, :count] = luck[people]
    return _pages(world, morning, people, score, cap)


def oracle_pages(
    world: World,
    model: ChoiceModel,
    morning: Morning,
    people: Ints,
    cap: int,
    among: Bools | None = None,
) -> Ints:
    """[people, PAGE] What each would click most, by their hidden tastes; where
    given, only ``among`` [people, items]."""
    appeal = model.appeal(world, morning.day, people)
    score = np.full((len(people), len(morning.recent_clicks)), -np.inf)
    score[:, : appeal.shape[1]] = appeal
    # The oracle knows as well what the app doesn't know yet.
    score -= model.dullness * morning.clicked[people]
    return _pages(world, morning, people, score, cap, among)


def _pages(
    world: World,
    morning: Morning,
    people: Ints,
    score: Floats,
    cap: int,
    among: Bools | None = None,
) -> Ints:
    allowed = world.known_in_the_morning(morning.day) & ~morning.known_clicked[people]
    if among is not None:
        allowed &= among
    order = np.argsort(np.where(allowed, -score, np.inf), axis=1, kind="stable")
    available = np.count_nonzero(allowed, axis=1)
    pages = np.full((len(people), PAGE), NOTHING)
    for row, candidates in enumerate(order):
        chosen = capped(candidates[: available[row]], world.items.label, cap)
        pages[row, : len(chosen)] = chosen
    return pages


def capped(candidates: Ints, labels: Ints, cap: int) -> list[int]:
    """The first PAGE of ``candidates`` with at most ``cap`` of one label in
    each ten; where nothing else is left, the cap gives way."""
    if not cap:
        return [int(item) for item in candidates[:PAGE]]
    chosen: list[int] = []
    waiting: list[int] = []
    count: dict[int, int] = {}
    rest = iter(candidates.tolist())

    def fits(item: int) -> bool:
        return count.get(int(labels[item]), 0) < cap

    while len(chosen) < PAGE:
        if len(chosen) % CAP_BLOCK == 0:
            count.clear()
        item = next((one for one in waiting if fits(one)), None)
        if item is not None:
            waiting.remove(item)
        else:
            for one in rest:
                if fits(one):
                    item = one
                    break
                waiting.append(one)
        if item is None:
            if not waiting:
                break
            item = waiting.pop(0)
        count[int(labels[item])] = count.get(int(labels[item]), 0) + 1
        chosen.append(item)
    return chosen
