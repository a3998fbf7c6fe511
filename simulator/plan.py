"""What people will do on a day whatever they are shown: when they come, what
they find by themselves, and whose phone is offline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.choice import ChoiceModel
from simulator.world import DAY_S, Bools, Floats, Ints, World, generator

HOUR_S = 3600
OPENING_HOUR = 6
HOURS = 18
"""People come from OPENING_HOUR until midnight, most in the evening."""
LAST_START_S = 2700
"""Sessions begin in the first part of an hour, so that they end within it."""

MORE_SESSIONS = 0.25
OFFLINE = 0.04
"""Share of sessions whose phone sends hours or days later."""
LONGEST_DELAY_S = 2 * DAY_S
SENT_TWICE = 0.05
"""Share of sessions whose phone missed the answer and sends once more."""
RUBBISH = 0.02
"""Share of sessions on which a broken app sends something malformed as well."""


@dataclass(frozen=True)
class DayPlan:
    """Sessions in order of time; a person has one an hour at most.

    ``round`` counts a person's earlier sessions of the day. ``start_s`` and
    ``delay_s`` (0: sends at once) are seconds, from the first midnight and
    from the session's end. Finds are in order of their session:
    ``find_session``, ``find_item`` and ``find_uniform`` [finds, 5] go together.
    """

    day: int
    person: Ints
    start_s: Floats
    round: Ints
    delay_s: Floats
    sent_twice: Bools
    rubbish: Bools
    find_session: Ints
    find_item: Ints
    find_uniform: Floats


def plan_day(
    world: World,
    model: ChoiceModel,
    day: int,
    clicked: Bools,
    public_clicks: Ints,
    finds_per_session: float,
) -> DayPlan:
    """The day's plan from what is so in the morning.

    ``clicked`` [people, items] is what each person has clicked before the day,
    ``public_clicks`` [items] what search and browsing sort by.
    """
    ordinal = world.date(day).toordinal()
    rng = generator(world.seed, "sessions", ordinal)
    person, hour, turn = _sessions(world, day, rng)
    sessions = len(person)
    start_s = day * DAY_S + hour * HOUR_S + rng.uniform(0, LAST_START_S, sessions)
    order = np.argsort(start_s, kind="stable")
    person, start_s, turn = person[order], start_s[order], turn[order]

    delay_s = np.exp(rng.uniform(np.log(HOUR_S), np.log(LONGEST_DELAY_S), sessions))
    delay_s[rng.random(sessions) >= OFFLINE] = 0.0
    sent_twice = rng.random(sessions) < SENT_TWICE
    rubbish = rng.random(sessions) < RUBBISH

    find_session, find_item = _finds(
        world, model, day, person, start_s, clicked, public_clicks, finds_per_session
    )
    uniform = generator(world.seed, "finds-follow", ordinal)
    return DayPlan(
        day,
        person,
        start_s,
        turn,
        delay_s,
        sent_twice,
        rubbish,
        find_session,
        find_item,
        uniform.random((len(find_session), 5)),
    )


def _sessions(
    world: World, day: int, rng: np.random.Generator
) -> tuple[Ints, Ints, Ints]:
    """Person, hour of the day and number of each session, by person."""
    count = world.population(day)
    joined_s = world.people.joined_s[:count]
    newcomer = world.people.joined_day[:count] == day
    # Whoever signs up today is here today.
    comes = newcomer | (rng.random(count) < world.people.activity[:count])
    number = np.where(comes, 1 + rng.binomial(2, MORE_SESSIONS, count), 0)
    liked = np.linspace(1.0, 3.0, HOURS)
    # The smallest of weighted exponentials: hours without repetition.
    waits = rng.exponential(1.0, (count, HOURS)) / liked
    hours = np.arange(OPENING_HOUR, OPENING_HOUR + HOURS)
    too_early = hours * HOUR_S + day * DAY_S <= joined_s[:, None]
    waits[too_early] = np.inf
    chosen = hours[np.argsort(waits, axis=1, kind="stable")]
    possible = np.minimum(number, np.count_nonzero(~too_early, axis=1))
    taken = np.arange(HOURS) < possible[:, None]
    person, _ = np.nonzero(taken)
    hour = np.sort(np.where(taken, chosen, HOURS * 10), axis=1)[taken]
    turn = (np.cumsum(taken, axis=1) - 1)[taken]
    return person, hour, turn


def _finds(
    world: World,
    model: ChoiceModel,
    day: int,
    person: Ints,
    start_s: Floats,
    clicked: Bools,
    public_clicks: Ints,
    finds_per_session: float,
) -> tuple[Ints, Ints]:
    """Session and item of what people find by themselves: appeal, public
    popularity and chance (a Gumbel draw of the softmax over all three)."""
    ordinal = world.date(day).toordinal()
    rng = generator(world.seed, "finds", ordinal)
    count = world.catalogue(day)
    number = rng.poisson(finds_per_session, len(person))
    appeal = model.appeal(world, day, person)
    appeal -= model.dullness * clicked[person, :count]
    luck = rng.gumbel(size=(len(person), count))
    score = (
        model.organic_sharpness * appeal
        + model.organic_popularity * np.log1p(public_clicks[:count])
        + luck
    )
    score[world.items.published_s[:count] > start_s[:, None]] = -np.inf
    number = np.minimum(number, np.count_nonzero(np.isfinite(score), axis=1))
    most = max(int(number.max(initial=0)), 1)
    best = np.argsort(-score, axis=1, kind="stable")[:, :most]
    taken = np.arange(best.shape[1]) < number[:, None]
    session, _ = np.nonzero(taken)
    return session, best[taken]
