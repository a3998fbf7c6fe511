"""The hidden world repeats, grows as said, and hides what it should."""

from __future__ import annotations

from datetime import date, timedelta

import msgspec
import numpy as np
import pytest

from feedloop.contracts.catalogue import decode_item, decode_user
from simulator.world import (
    CATEGORIES,
    DAY_S,
    MISLABELLED,
    STYLE_TAGS,
    TAG_RIGHT,
    World,
    WorldSize,
)

START = date(2026, 1, 1)
SMALL = WorldSize(
    people=30, items=80, new_people_a_day=4, new_items_a_day=6, retired_items_a_day=3
)


def test_the_same_seed_gives_the_same_world() -> None:
    worlds = [World(3, START, 4, SMALL) for _ in range(2)]
    np.testing.assert_array_equal(worlds[0].items.style, worlds[1].items.style)
    np.testing.assert_array_equal(
        worlds[0].people.category_taste, worlds[1].people.category_taste
    )
    assert worlds[0].items.titles == worlds[1].items.titles
    assert worlds[0].people.declared == worlds[1].people.declared


def test_another_seed_gives_other_people_under_other_names() -> None:
    first, second = World(3, START, 1, SMALL), World(4, START, 1, SMALL)
    assert not np.array_equal(first.people.style_taste, second.people.style_taste)
    assert not set(first.people.ids) & set(second.people.ids)


def test_a_day_does_not_depend_on_how_many_are_simulated() -> None:
    short, long = World(3, START, 2, SMALL), World(3, START, 5, SMALL)
    count = short.catalogue(1)
    assert long.catalogue(1) == count == len(short.items.ids)
    assert long.items.ids[:count] == short.items.ids
    np.testing.assert_array_equal(long.items.quality[:count], short.items.quality)
    np.testing.assert_array_equal(
        long.known_in_the_morning(1)[:count], short.known_in_the_morning(1)
    )
    assert long.people.ids[: short.population(1)] == short.people.ids


def test_a_later_start_meets_the_same_people_and_other_newcomers() -> None:
    first = World(3, START, 1, SMALL)
    later = World(3, START + timedelta(days=1), 1, SMALL)
    assert first.people.ids[:30] == later.people.ids[:30]
    assert not set(first.people.ids[30:]) & set(later.people.ids[30:])


def test_it_grows_and_shrinks_by_the_day() -> None:
    world = World(3, START, 4, SMALL)
    assert [world.population(day) for day in range(-1, 4)] == [30, 34, 38, 42, 46]
    assert [world.catalogue(day) for day in range(-1, 4)] == [80, 86, 92, 98, 104]
    # Of 80 items 3 leave every evening; a day's own items come next morning.
    assert [world.known_in_the_morning(day).sum() for day in range(4)] == [
        80,
        83,
        86,
        89,
    ]
    assert [world.on_offer(day).sum() for day in range(4)] == [86, 89, 92, 95]


def test_retirement_leaves_enough_for_a_page() -> None:
    size = WorldSize(
        people=1,
        items=55,
        new_people_a_day=0,
        new_items_a_day=0,
        retired_items_a_day=40,
    )
    world = World(3, START, 3, size)
    assert [world.known_in_the_morning(day).sum() for day in range(3)] == [55, 50, 50]


def test_people_and_items_arrive_within_their_day() -> None:
    world = World(3, START, 4, SMALL)
    for seconds, days in (
        (world.people.joined_s, world.people.joined_day),
        (world.items.published_s, world.items.published_day),
    ):
        arrived = np.floor(seconds / DAY_S)
        np.testing.assert_array_equal(arrived[days >= 0], days[days >= 0])
        assert (arrived[days < 0] < 0).all()


def test_public_records_keep_the_contracts() -> None:
    world = World(3, START, 2, SMALL)
    for item in range(world.catalogue(1)):
        record = world.item_record(item, is_active=True)
        assert decode_item(msgspec.json.encode(record)).category in CATEGORIES
    for person in range(world.population(1)):
        decode_user(msgspec.json.encode(world.user_record(person)))


def test_public_records_hold_no_hidden_number() -> None:
    world = World(3, START, 1, SMALL)
    record = world.item_record(5, is_active=True)
    assert set(record) == {
        "item_id",
        "category",
        "published_at",
        "is_active",
        "title",
        "tags",
        "metadata",
    }
    assert record["metadata"] == {"price": world.items.price[5]}
    assert abs(np.corrcoef(world.items.price, world.items.quality)[0, 1]) < 0.35


def test_labels_and_tags_hint_as_well_as_said() -> None:
    size = WorldSize(people=1, items=4000)
    world = World(3, START, 0, size)
    items = world.items
    # A wrong label is drawn from all categories, the right one included.
    wrong = np.mean(items.label != items.category)
    assert wrong == pytest.approx(MISLABELLED * 11 / 12, abs=0.012)
    side = {
        tag: (dimension, positive)
        for dimension, tags in enumerate(STYLE_TAGS)
        for positive, tag in enumerate(tags)
    }
    right = [
        (items.style[row, side[tag][0]] > 0) == bool(side[tag][1])
        for row, tags in enumerate(items.tags)
        for tag in tags
        if tag in side
    ]
    assert np.mean(right) == pytest.approx(TAG_RIGHT, abs=0.02)


def test_declared_preferences_lean_towards_the_hidden_taste() -> None:
    world = World(3, START, 0, WorldSize(people=600, items=60))
    declared, other = [], []
    for row, names in enumerate(world.people.declared):
        for category, name in enumerate(CATEGORIES):
            taste = world.people.category_taste[row, category]
            (declared if name in names else other).append(taste)
    assert np.mean(declared) > np.mean(other) + 1.0
