"""How people choose: the hidden model of looking, clicking and what follows.

A click takes two things (the examination hypothesis of Richardson et al.,
"Predicting Clicks", 2007): a person looks at the position, and what stands
there appeals to them. Draws are common random numbers: whether a person looks
at a position, and whether they would click an item they look at, is drawn once
a session, whatever list is shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from simulator.world import DAY_S, Bools, Floats, Ints, World, generator

PAGE = 20
"""Items on a page, the positions 1 to PAGE."""
NOTHING = -1
"""Stands in a page where there is no item."""
LONGEST_DWELL_MS = 120_000


@dataclass(frozen=True)
class ChoiceModel:
    """The hidden weights. Appeal is on the logit scale."""

    base: float = -2.9
    category_weight: float = 0.8
    style_weight: float = 0.9
    quality_weight: float = 0.6
    decay_per_log_week: float = 0.35
    dullness: float = 4.0
    """Taken from the appeal of what a person has clicked before."""
    position_exponent: float = 0.5
    scroll_past: float = 0.3
    hover: float = 0.15
    organic_sharpness: float = 1.1
    """How much of an organic choice is appeal rather than chance."""
    organic_popularity: float = 0.5
    """Exponent of an item's public clicks in what search and browsing find."""

    def examination(self) -> Floats:
        """[PAGE] The chance that a person looks at each position."""
        positions = np.arange(1, PAGE + 1, dtype=np.float64)
        looked: Floats = positions**-self.position_exponent
        return looked

    def skip_chance(self, appeal: float) -> float:
        """The chance that a person who looks and doesn't click waves it away."""
        return 1.0 / (1.0 + math.exp(4.5 + 0.5 * max(appeal, -8.0)))

    def appeal(self, world: World, day: int, people: Ints) -> Floats:
        """[people, items of the day] Logit that a person who looks at a fresh
        item clicks it; minus infinity for items that are gone."""
        items, tastes = world.items, world.people
        count = world.catalogue(day)
        category = tastes.category_taste[people][:, items.category[:count]]
        style = tastes.style_taste[people] @ items.style[:count].T
        age_days = np.maximum(0.0, day - items.published_s[:count] / DAY_S)
        draw = (
            self.quality_weight * items.quality[:count]
            - self.decay_per_log_week * np.log1p(age_days / 7)
            + self.base
        )
        appeal: Floats = (
            self.category_weight * category + self.style_weight * style + draw
        )
        appeal[:, items.retired_day[:count] <= day] = -np.inf
        return appeal


def chance(logit: Floats) -> Floats:
    """The logistic function."""
    with np.errstate(over="ignore"):
        result: Floats = 1.0 / (1.0 + np.exp(-logit))
    return result


# --- one page ----------------------------------------------------------------


@dataclass(frozen=True)
class Draws:
    """A day's common random numbers, uniform on [0, 1).

    ``look`` [sessions, PAGE], ``click`` [sessions, items], ``follow``
    [sessions, PAGE, FOLLOW_UPS].
    """

    look: Floats
    click: Floats
    follow: Floats


FOLLOW_UPS = 8


def draw(seed: int, ordinal: int, sessions: int, items: int) -> Draws:
    return Draws(
        generator(seed, "look", ordinal).random((sessions, PAGE)),
        generator(seed, "click", ordinal).random((sessions, items)),
        generator(seed, "follow", ordinal).random((sessions, PAGE, FOLLOW_UPS)),
    )


@dataclass(frozen=True)
class Reaction:
    """[sessions, PAGE] What people looked at and what of it they clicked."""

    examined: Bools
    clicked: Bools


def react(
    model: ChoiceModel,
    pages: Ints,
    appeal: Floats,
    look: Floats,
    click: Floats,
) -> Reaction:
    """What people do with ``pages`` [sessions, PAGE] of item rows.

    ``appeal`` [sessions, items] knows what is dull by now; ``look`` and
    ``click`` are the rows of the day's draws for these sessions.
    """
    there = pages != NOTHING
    items = np.where(there, pages, 0)
    examined = there & (look < model.examination())
    wanted = np.take_along_axis(click, items, 1) < chance(
        np.take_along_axis(appeal, items, 1)
    )
    return Reaction(examined, examined & wanted)


# --- what follows ------------------------------------------------------------


@dataclass(frozen=True)
class Aftermath:
    """What follows a click on an item, one row a click.

    ``rating`` is 0 where none is given.
    """

    dwell_ms: Ints
    like: Bools
    save: Bools
    purchase: Bools
    rating: Ints


def follow_up(appeal: Floats, uniform: Floats) -> Aftermath:
    """``appeal`` [clicks] on the logit scale, ``uniform`` [clicks, 5+]."""
    liking = np.clip(appeal, -6.0, 4.0) + 2.0
    # The inverse of the logistic distribution: one uniform number, one draw.
    spread = np.clip(uniform[:, 0], 1e-6, 1 - 1e-6)
    noise = np.log(spread / (1 - spread))
    dwell_ms = np.exp(9.7 + 0.3 * liking + 0.35 * noise)
    stars = np.clip(np.rint(3.2 + 0.6 * liking + 0.3 * noise), 1, 5)
    return Aftermath(
        np.clip(dwell_ms, 500, LONGEST_DWELL_MS).astype(np.int64),
        uniform[:, 1] < chance(-2.6 + 0.6 * liking),
        uniform[:, 2] < chance(-3.2 + 0.5 * liking),
        uniform[:, 3] < chance(-4.5 + 0.5 * liking),
        np.where(uniform[:, 4] < 0.04, stars, 0).astype(np.int64),
    )
