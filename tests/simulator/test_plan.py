"""What people do whatever they are shown: when they come, what they find."""

from __future__ import annotations

import dataclasses
from datetime import date

import numpy as np
import pytest

from simulator.choice import ChoiceModel
from simulator.plan import (
    HOUR_S,
    OFFLINE,
    OPENING_HOUR,
    SENT_TWICE,
    DayPlan,
    plan_day,
)
from simulator.world import DAY_S, World, WorldSize

MODEL = ChoiceModel()
START = date(2026, 1, 1)


def plan(world: World, day: int, finds: float = 1.0) -> DayPlan:
    nothing = np.zeros((len(world.people.ids), len(world.items.ids)), dtype=bool)
    unknown = np.zeros(len(world.items.ids), dtype=np.int64)
    return plan_day(world, MODEL, day, nothing, unknown, finds)


def test_the_same_morning_gives_the_same_day() -> None:
    first, second = (plan(World(2, START, 2), 1) for _ in range(2))
    for field in dataclasses.fields(DayPlan):
        np.testing.assert_array_equal(
            getattr(first, field.name), getattr(second, field.name)
        )


def test_a_day_does_not_depend_on_how_many_are_simulated() -> None:
    short, long = plan(World(2, START, 2), 1), plan(World(2, START, 6), 1)
    np.testing.assert_array_equal(short.person, long.person)
    np.testing.assert_array_equal(short.find_item, long.find_item)
    np.testing.assert_array_equal(short.delay_s, long.delay_s)


def test_sessions_are_in_order_and_a_person_has_one_an_hour() -> None:
    day = plan(World(2, START, 3), 2)
    assert (np.diff(day.start_s) >= 0).all()
    assert day.start_s.min() >= 2 * DAY_S + OPENING_HOUR * HOUR_S
    assert day.start_s.max() < 3 * DAY_S
    hours = list(zip(day.person, day.start_s // HOUR_S, strict=True))
    assert len(set(hours)) == len(hours)
    for person in np.unique(day.person):
        rows = np.flatnonzero(day.person == person)
        np.testing.assert_array_equal(day.round[rows], np.arange(len(rows)))


def test_newcomers_come_on_their_first_day_and_not_before_they_joined() -> None:
    world = World(2, START, 3)
    day = plan(world, 1)
    newcomers = np.flatnonzero(world.people.joined_day == 1)
    assert set(newcomers) <= set(day.person)
    assert (day.start_s >= world.people.joined_s[day.person]).all()
    assert not set(np.flatnonzero(world.people.joined_day == 2)) & set(day.person)


def test_phones_are_offline_and_repeat_as_often_as_said() -> None:
    world = World(2, START, 1, WorldSize(people=6000, items=60))
    day = plan(world, 0, finds=0.0)
    assert np.mean(day.delay_s > 0) == pytest.approx(OFFLINE, abs=0.01)
    assert np.mean(day.sent_twice) == pytest.approx(SENT_TWICE, abs=0.01)
    late = day.delay_s[day.delay_s > 0]
    assert late.min() >= HOUR_S
    assert late.max() <= 2 * DAY_S


def test_two_tastes_find_their_own_category(two_tastes: World) -> None:
    day = plan(two_tastes, 0, finds=2.0)
    person = day.person[day.find_session]
    assert len(person) > 40
    np.testing.assert_array_equal(day.find_item % 2, person % 2)


def test_nobody_finds_what_is_not_published_yet() -> None:
    world = World(2, START, 2)
    day = plan(world, 1, finds=3.0)
    published = world.items.published_s[day.find_item]
    assert (published <= day.start_s[day.find_session]).all()
    assert (world.items.published_day[day.find_item] == 1).any()


def test_people_find_again_less_what_they_have_clicked(two_tastes: World) -> None:
    clicked = np.zeros((40, 80), dtype=bool)
    clicked[:, :40] = True
    unknown = np.zeros(80, dtype=np.int64)
    day = plan_day(two_tastes, MODEL, 0, clicked, unknown, 2.0)
    assert np.mean(day.find_item < 40) < 0.1


def test_people_find_what_many_clicked(two_tastes: World) -> None:
    nothing = np.zeros((40, 80), dtype=bool)
    popular = np.zeros(80, dtype=np.int64)
    popular[:2] = 1000
    day = plan_day(two_tastes, MODEL, 0, nothing, popular, 1.0)
    # 1 of 40 items of a taste by chance; weighted by sqrt(1001) here.
    assert np.mean(day.find_item < 2) > 0.2
