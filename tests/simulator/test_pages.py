"""The lists to compare with obey the rules and are what they are called."""

from __future__ import annotations

import numpy as np

from simulator.choice import NOTHING, PAGE, ChoiceModel
from simulator.pages import (
    Morning,
    capped,
    oracle_pages,
    popularity_pages,
    random_pages,
)
from simulator.world import World

EVERYONE = np.arange(40)


def morning(world: World) -> Morning:
    people, items = len(world.people.ids), len(world.items.ids)
    nothing = np.zeros((people, items), dtype=bool)
    return Morning(0, nothing, nothing.copy(), np.arange(items)[::-1].copy())


def test_popularity_is_the_most_clicked_for_everyone(two_tastes: World) -> None:
    pages = popularity_pages(two_tastes, morning(two_tastes), EVERYONE, 0)
    np.testing.assert_array_equal(pages, np.tile(np.arange(PAGE), (40, 1)))


def test_nobody_is_shown_what_they_are_known_to_have_clicked(
    two_tastes: World,
) -> None:
    known = morning(two_tastes)
    known.known_clicked[7, :5] = True
    # A click that is still on a phone is no reason to leave an item out.
    known.clicked[7, 5] = True
    for pages in (
        popularity_pages(two_tastes, known, EVERYONE, 4),
        random_pages(two_tastes, known, EVERYONE, 4),
        oracle_pages(two_tastes, ChoiceModel(), known, EVERYONE, 4),
    ):
        assert not np.isin(pages[7], range(5)).any()
    assert popularity_pages(two_tastes, known, EVERYONE, 0)[7, 0] == 5
    assert popularity_pages(two_tastes, known, EVERYONE, 0)[6, 0] == 0


def test_only_what_was_active_in_the_morning_is_shown(two_tastes: World) -> None:
    two_tastes.items.retired_day[0] = 0
    two_tastes.items.published_day[1] = 0
    for pages in (
        popularity_pages(two_tastes, morning(two_tastes), EVERYONE, 0),
        random_pages(two_tastes, morning(two_tastes), EVERYONE, 0),
    ):
        assert not np.isin(pages, (0, 1)).any()


def test_the_oracle_shows_each_taste_its_own(two_tastes: World) -> None:
    pages = oracle_pages(two_tastes, ChoiceModel(), morning(two_tastes), EVERYONE, 0)
    np.testing.assert_array_equal(pages % 2, np.tile(EVERYONE[:, None] % 2, PAGE))


def test_random_lists_differ_by_person_and_repeat_by_seed(two_tastes: World) -> None:
    one, two = (
        random_pages(two_tastes, morning(two_tastes), EVERYONE, 0) for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)
    assert len({tuple(page) for page in one}) == 40
    # A person's list is the same whoever else comes.
    alone = random_pages(two_tastes, morning(two_tastes), np.array([9]), 0)
    np.testing.assert_array_equal(alone[0], one[9])


def test_the_cap_holds_in_each_ten_positions() -> None:
    labels = np.array([0] * 30 + [1] * 10 + [2] * 10)
    chosen = capped(np.arange(50), labels, 4)
    # Four of category 0, then 1, then 2; ten full, and from the start again.
    assert chosen == [
        *(0, 1, 2, 3, 30, 31, 32, 33, 40, 41),
        *(4, 5, 6, 7, 34, 35, 36, 37, 42, 43),
    ]


def test_the_cap_gives_way_where_nothing_else_is_left() -> None:
    labels = np.zeros(25, dtype=np.int64)
    assert capped(np.arange(25), labels, 4) == list(range(PAGE))


def test_a_short_catalogue_gives_a_short_page(two_tastes: World) -> None:
    two_tastes.items.retired_day[3:] = 0
    pages = popularity_pages(two_tastes, morning(two_tastes), EVERYONE, 4)
    np.testing.assert_array_equal(pages[0], [0, 1, 2] + [NOTHING] * (PAGE - 3))
