"""The comparison is right where the answer is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from simulator.app import DayLog
from simulator.choice import NOTHING, PAGE, ChoiceModel, draw
from simulator.pages import Morning, oracle_pages, popularity_pages
from simulator.plan import plan_day
from simulator.report import (
    ORACLE,
    PIPELINE,
    POPULARITY,
    RANDOM,
    Scores,
    figures,
    following,
    gain,
    recall_and_ndcg,
    replay,
    score_day,
    total,
)
from simulator.world import Ints, World

MODEL = ChoiceModel()


def a_day(world: World, pages_of: Ints | None = None) -> DayLog:
    """A day on which the pipeline gave ``pages_of`` [people, PAGE], and the
    clicks that follow; without, the popularity list."""
    people, items = len(world.people.ids), len(world.items.ids)
    nothing = np.zeros((people, items), dtype=bool)
    clicks = np.arange(items)[::-1].copy()
    morning = Morning(0, nothing, nothing.copy(), clicks)
    plan = plan_day(world, MODEL, 0, nothing, clicks, 1.5)
    sessions = len(plan.person)
    if pages_of is None:
        pages_of = popularity_pages(world, morning, np.arange(people), 0)
    pages = pages_of[plan.person]
    log = DayLog(
        morning,
        plan,
        draw(world.seed, 1, sessions, items),
        pages,
        np.ones(sessions, dtype=bool),
        np.zeros((sessions, PAGE), dtype=bool),
        ["v1"],
    )
    return dataclasses.replace(log, clicked=replay(world, MODEL, log, pages))


def test_equal_lists_get_equal_figures(two_tastes: World) -> None:
    result = figures("", score_day(two_tastes, MODEL, 0, a_day(two_tastes)), 1)
    assert result.arms[PIPELINE] == result.arms[POPULARITY]
    assert (result.lead.value, result.lead.low, result.lead.high) == (0, 0, 0)


def test_knowing_the_tastes_doubles_the_clicks_of_popularity(
    two_tastes: World,
) -> None:
    # On the checkerboard half of any list that ignores taste is of the wrong
    # category: what knows the taste gets twice the clicks, and all finds.
    result = figures("", score_day(two_tastes, MODEL, 0, a_day(two_tastes)), 1)
    ctr = {arm: row.ctr.value for arm, row in result.arms.items()}
    examined = MODEL.examination().mean()
    first_session = figures(
        "", score_day(two_tastes, MODEL, 0, only_first_sessions(two_tastes)), 1
    )
    assert first_session.arms[ORACLE].ctr.value == pytest.approx(examined, abs=0.03)
    assert ctr[ORACLE] > 1.7 * ctr[POPULARITY]
    assert ctr[RANDOM] == pytest.approx(ctr[POPULARITY], abs=0.05)
    assert result.lead.value == 0


def only_first_sessions(world: World) -> DayLog:
    log = a_day(world)
    rows = log.plan.round == 0
    return dataclasses.replace(log, served=rows)


def test_a_pipeline_that_is_the_oracle_gets_the_oracles_figures(
    two_tastes: World,
) -> None:
    log = a_day(two_tastes)
    pages = oracle_pages(two_tastes, MODEL, log.morning, np.arange(40), 0)
    result = figures("", score_day(two_tastes, MODEL, 0, a_day(two_tastes, pages)), 1)
    assert result.arms[PIPELINE] == result.arms[ORACLE]
    assert result.lead.low > 0


def test_the_replay_of_what_was_shown_is_what_happened(two_tastes: World) -> None:
    log = a_day(two_tastes)
    scores = score_day(two_tastes, MODEL, 0, log)
    assert scores.clicks[0].sum() == log.clicked.sum() > 0
    assert scores.shown[0].sum() == PAGE * len(log.plan.person)


def test_what_was_clicked_on_a_list_is_dull_in_the_next_session(
    two_tastes: World,
) -> None:
    log = a_day(two_tastes)
    # Appeal so high that dullness alone doesn't end it, and everything looked at.
    model = dataclasses.replace(MODEL, position_exponent=0.0, dullness=1000.0)
    clicked = replay(two_tastes, model, log, log.pages)
    own = log.pages % 2 == log.plan.person[:, None] % 2
    first = log.plan.round == 0
    np.testing.assert_array_equal(clicked[first], own[first])
    assert not clicked[~first].any()
    assert (~first).any()


def test_sessions_without_a_list_count_for_no_arm(two_tastes: World) -> None:
    log = a_day(two_tastes)
    served = log.served.copy()
    served[:10] = False
    scores = score_day(two_tastes, MODEL, 0, dataclasses.replace(log, served=served))
    assert scores.without_list == 10
    np.testing.assert_array_equal(
        scores.shown.sum(axis=1), PAGE * (len(log.plan.person) - 10)
    )


def test_recall_and_ndcg_by_hand() -> None:
    page = np.array([4, 7, 9, NOTHING])
    # Hits at ranks 1 and 3 of three relevant items.
    recall, ndcg = recall_and_ndcg(page, {4, 9, 30})
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    assert recall == pytest.approx(2 / 3)
    assert ndcg == pytest.approx((1 + 1 / 2) / ideal)
    assert recall_and_ndcg(page, {1}) == (0.0, 0.0)
    assert recall_and_ndcg(page, {4}) == (1.0, 1.0)


def test_the_interval_is_that_of_a_mean_over_people() -> None:
    people = 400
    rng = np.random.default_rng(0)
    clicks = np.zeros((4, people))
    clicks[0] = rng.binomial(20, 0.1, people)
    shown = np.full((4, people), 20.0)
    zeros = np.zeros((4, people))
    scores = Scores(clicks, shown, zeros, zeros, np.zeros(people), people, 0)
    ctr = figures("", scores, 1).arms[PIPELINE].ctr
    error = (clicks[0] / 20).std() / np.sqrt(people)
    assert ctr.value == pytest.approx(clicks[0].sum() / (20 * people))
    assert ctr.high - ctr.low == pytest.approx(2 * 1.96 * error, rel=0.12)


def of_the_pipeline(clicks: np.ndarray, shown: np.ndarray) -> Scores:
    zeros = np.zeros((4, len(clicks)))
    theirs, seen = zeros.copy(), zeros.copy()
    theirs[0], seen[0] = clicks, shown
    return Scores(theirs, seen, zeros, zeros, zeros[0], len(clicks), 0)


def test_a_gain_is_judged_by_the_same_people_in_both_worlds() -> None:
    """Everybody clicks a tenth more in one: people differ, the gain doesn't."""
    rng = np.random.default_rng(0)
    clicks = rng.gamma(1, 5, 300)
    shown = np.full(300, 100.0)
    better = of_the_pipeline(1.1 * clicks, shown)
    found = gain(better, of_the_pipeline(clicks, shown), 1)
    assert [found.value, found.low, found.high] == pytest.approx([0.1] * 3)
    # twice as much was shown: half the click-through
    found = gain(better, of_the_pipeline(clicks, shown / 2), 1)
    assert found.value == pytest.approx(1.1 / 2 - 1)
    shuffled = of_the_pipeline(rng.permutation(clicks), shown)
    wide = gain(better, shuffled, 1)
    assert wide.value == pytest.approx(0.1)
    assert wide.low < 0 < 0.2 < wide.high


def test_days_add_up_by_person(two_tastes: World) -> None:
    scores = score_day(two_tastes, MODEL, 0, a_day(two_tastes))
    once, twice = figures("", scores, 1), figures("", total([scores, scores]), 1)
    # The same people twice are no new evidence: the intervals stay.
    assert once.arms == twice.arms
    assert twice.people == once.people
    assert twice.sessions == 2 * once.sessions


def test_nobody_came(two_tastes: World) -> None:
    log = a_day(two_tastes)
    unserved = dataclasses.replace(log, served=np.zeros_like(log.served))
    result = figures("", score_day(two_tastes, MODEL, 0, unserved), 1)
    assert np.isnan(result.arms[PIPELINE].ctr.value)
    assert result.people == result.judged == 0


def test_following_by_hand(two_tastes: World) -> None:
    # Person 0 is shown 6 items of category 0 and 4 of category 1 and clicks
    # one of category 0; the next day it is 8 and 1.
    log = a_day(two_tastes)
    row = np.flatnonzero(log.plan.person == 0)[0]
    served = np.zeros_like(log.served)
    served[row] = True

    def shown(evens: int, odds: int, clicked: list[int]) -> DayLog:
        page = [2 * n for n in range(evens)] + [2 * n + 1 for n in range(odds)]
        pages = np.full_like(log.pages, NOTHING)
        pages[row, : len(page)] = page
        clicks = np.zeros_like(log.clicked)
        clicks[row, clicked] = True
        return dataclasses.replace(log, served=served, pages=pages, clicked=clicks)

    result = following(two_tastes, [shown(6, 4, [0]), shown(8, 1, [])])
    assert result.clicked == (6, 8)
    assert result.passed_over == (4, 1)
    assert result.pairs == (1, 1)
    assert sum(following(two_tastes, [shown(6, 4, [0])]).pairs) == 0
