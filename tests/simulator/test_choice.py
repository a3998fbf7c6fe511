"""People click what they look at and like, and nothing else decides."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.choice import (
    LONGEST_DWELL_MS,
    NOTHING,
    PAGE,
    ChoiceModel,
    draw,
    follow_up,
    react,
)
from simulator.world import World

MODEL = ChoiceModel()


def test_two_tastes_click_their_own_category_only(two_tastes: World) -> None:
    people = np.arange(40)
    appeal = MODEL.appeal(two_tastes, 0, people)
    pages = np.tile(np.arange(PAGE), (40, 1))
    draws = draw(1, 1, 40, 80)
    reaction = react(MODEL, pages, appeal, draws.look, draws.click)
    own = pages % 2 == people[:, None] % 2
    np.testing.assert_array_equal(reaction.clicked, reaction.examined & own)
    assert reaction.clicked.any()


def test_position_bias_is_measured_back_from_the_clicks(two_tastes: World) -> None:
    sessions = 20_000
    appeal = np.full((sessions, PAGE), 30.0)
    pages = np.tile(np.arange(PAGE), (sessions, 1))
    draws = draw(5, 1, sessions, PAGE)
    clicked = react(MODEL, pages, appeal, draws.look, draws.click).clicked
    measured = clicked.mean(axis=0) / clicked[:, 0].mean()
    slope = np.polyfit(np.log(np.arange(1, PAGE + 1)), np.log(measured), 1)[0]
    assert slope == pytest.approx(-MODEL.position_exponent, abs=0.02)


def test_a_shuffled_page_shows_that_position_and_appeal_are_apart() -> None:
    sessions = 20_000
    logits = np.linspace(-3, 1, PAGE)
    rng = np.random.default_rng(2)
    pages = rng.permuted(np.tile(np.arange(PAGE), (sessions, 1)), axis=1)
    draws = draw(5, 1, sessions, PAGE)
    reaction = react(
        MODEL, pages, np.tile(logits, (sessions, 1)), draws.look, draws.click
    )
    # Among those who looked, the click rate of an item is that of its appeal.
    for item in (0, PAGE // 2, PAGE - 1):
        looked = reaction.examined & (pages == item)
        rate = reaction.clicked[looked].mean()
        assert rate == pytest.approx(1 / (1 + np.exp(-logits[item])), abs=0.02)


def test_the_same_draws_decide_an_item_wherever_it_stands() -> None:
    draws = draw(5, 1, 500, PAGE)
    appeal = np.zeros((500, PAGE))
    forwards = np.tile(np.arange(PAGE), (500, 1))
    backwards = forwards[:, ::-1]
    one = react(MODEL, forwards, appeal, draws.look, draws.click)
    other = react(MODEL, backwards, appeal, draws.look, draws.click)
    np.testing.assert_array_equal(one.examined, other.examined)
    # Where both had the item looked at, both or neither clicked it.
    both = one.examined & other.examined[:, ::-1]
    np.testing.assert_array_equal(one.clicked[both], other.clicked[:, ::-1][both])
    assert both.any()


def test_nobody_clicks_where_nothing_stands() -> None:
    pages = np.full((50, PAGE), NOTHING)
    draws = draw(5, 1, 50, 3)
    reaction = react(MODEL, pages, np.full((50, 3), 30.0), draws.look, draws.click)
    assert not reaction.examined.any()
    assert not reaction.clicked.any()


def test_items_that_are_gone_are_never_clicked(two_tastes: World) -> None:
    two_tastes.items.retired_day[0] = 1
    assert MODEL.appeal(two_tastes, 0, np.arange(2))[0, 0] > 0
    appeal = MODEL.appeal(two_tastes, 1, np.arange(2))
    assert appeal[0, 0] == -np.inf
    draws = draw(5, 1, 2, 80)
    pages = np.zeros((2, PAGE), dtype=np.int64)
    assert not react(MODEL, pages, appeal, draws.look, draws.click).clicked.any()


def test_older_items_appeal_less(two_tastes: World) -> None:
    two_tastes.items.published_s[:] = 0.0
    logits = [MODEL.appeal(two_tastes, day, np.arange(1))[0, 0] for day in range(3)]
    assert logits[0] > logits[1] > logits[2]


def test_what_people_like_more_holds_them_longer() -> None:
    uniform = np.random.default_rng(0).random((4000, 5))
    loved = follow_up(np.full(4000, 1.0), uniform)
    bored = follow_up(np.full(4000, -5.0), uniform)
    assert (loved.dwell_ms >= bored.dwell_ms).all()
    assert loved.dwell_ms.max() <= LONGEST_DWELL_MS
    assert loved.like.sum() > 2 * bored.like.sum()
    assert loved.purchase.sum() > bored.purchase.sum() > 0
    given = loved.rating > 0
    np.testing.assert_array_equal(given, bored.rating > 0)
    assert loved.rating[given].mean() > bored.rating[given].mean() + 1
    assert loved.rating.max() == 5
