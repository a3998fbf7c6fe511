"""Estimates from logged draws, held against what the simulator knows."""

from __future__ import annotations

from collections import Counter
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from feedloop.errors import ContractError
from recommender.exploration import chances, weights_of
from recommender.off_policy import NoSupport, OffPolicy, estimate, slot_value
from simulator.choice import ChoiceModel, chance
from simulator.world import World, WorldSize

PEOPLE, POOL, NIGHTS = 300, 20, 12
POSITION = 8


class Slot:
    """Exploration's slot in a simulated world: a pool of items for each person,
    the chance of a click on each, and the distributions of two policies."""

    def __init__(self, sharper: float) -> None:
        size = WorldSize(people=PEOPLE, items=400)
        world = World(7, date(2026, 1, 1), 1, size)
        model = ChoiceModel()
        rng = np.random.default_rng(3)
        offered = np.flatnonzero(world.on_offer(0))
        self.pool = rng.choice(offered, (PEOPLE, POOL))
        appeal = model.appeal(world, 0, np.arange(PEOPLE))
        looked = model.examination()[POSITION - 1]
        self.click = looked * chance(np.take_along_axis(appeal, self.pool, axis=1))
        # bounds that know a little: what everybody's mean would tell
        quality = world.items.quality[self.pool]
        bounds = 0.1 + 0.03 * quality
        everything = np.ones(self.pool.shape, np.bool_)

        def policy(temperature: float, floor: float) -> np.ndarray:
            weights = weights_of(bounds, temperature)
            return chances(weights, everything, np.full(PEOPLE, floor))

        self.drawn_by, self.target = policy(0.05, 0.3), policy(sharper, 0.1)
        self.predicted = 0.02 + 0.01 * quality
        self.truth = float((self.target * self.click).sum(axis=1).mean())

    def logged(self, seed: int) -> pa.Table:
        rng = np.random.default_rng(seed)
        person = np.repeat(np.arange(PEOPLE), NIGHTS)
        edges = np.cumsum(self.drawn_by, axis=1)[person]
        at = np.argmax(edges > rng.random(len(person))[:, None], axis=1)
        return pa.table(
            {
                "user_id": [f"u{one}" for one in person],
                "propensity": self.drawn_by[person, at],
                "pool_size": np.full(len(person), POOL),
                "target": self.target[person, at],
                "reward": (rng.random(len(person)) < self.click[person, at]) * 1.0,
                "predicted": self.predicted[person, at],
                "expected_as_drawn": (self.drawn_by * self.predicted).sum(axis=1)[
                    person
                ],
                "expected_evenly": self.predicted.mean(axis=1)[person],
                "expected": (self.target * self.predicted).sum(axis=1)[person],
            }
        )


def test_the_truth_lies_within_the_intervals() -> None:
    slot = Slot(sharper=0.02)
    within: Counter[str] = Counter()
    for seed in range(20):
        found = estimate(slot.logged(seed), seed)
        assert isinstance(found, OffPolicy)
        assert found.draws == PEOPLE * NIGHTS
        assert 100 < found.effective < found.draws
        for name in ("ips", "snips", "dr"):
            one = getattr(found, name)
            assert one.users == PEOPLE
            within[name] += one.low <= slot.truth <= one.high
    # of twenty intervals of 95 % two or more fail with a chance of one in four
    assert min(within.values()) >= 16


def test_the_policy_that_drew_earns_what_it_earned() -> None:
    slot = Slot(sharper=0.02)
    log = slot.logged(1)
    own = log.set_column(
        log.schema.get_field_index("target"), "target", log["propensity"]
    )
    found = estimate(own.select(["user_id", "propensity", "target", "reward"]), 1)
    assert isinstance(found, OffPolicy)
    mean = float(np.mean(log["reward"].to_numpy()))
    assert found.ips.mean == pytest.approx(mean)
    assert found.snips.mean == pytest.approx(mean)
    assert found.effective == pytest.approx(len(log))
    assert found.dr is None


def test_what_drawing_evenly_earns_is_found_from_other_draws() -> None:
    slot = Slot(sharper=0.02)
    evenly = float(slot.click.mean())
    drawn = float((slot.drawn_by * slot.click).sum(axis=1).mean())
    # the draws lean to what is good, so that the two are not the same question
    assert drawn > 1.1 * evenly
    within: Counter[str] = Counter()
    for seed in range(20):
        rows = {
            row["policy"]: row
            for row in slot_value(slot.logged(seed), seed).to_pylist()
        }
        assert rows["as drawn"]["effective"] == pytest.approx(PEOPLE * NIGHTS)
        for policy, truth in (("as drawn", drawn), ("evenly", evenly)):
            assert rows[policy]["refusal"] is None
            for name in ("ips", "snips", "dr"):
                low, high = rows[policy][f"{name}_low"], rows[policy][f"{name}_high"]
                within[policy + name] += low <= truth <= high
    assert min(within.values()) >= 16


@pytest.mark.parametrize("times", [0.0, 5.0])
def test_a_model_that_is_wrong_spoils_nothing(times: float) -> None:
    """Expectations that are some times too high are scaled by other people's
    rewards; without any it is the estimate by inverse propensity."""
    slot = Slot(sharper=0.02)
    log = slot.logged(3)
    right = slot_value(log, 3).to_pylist()[1]
    for name in ("predicted", "expected_as_drawn", "expected_evenly"):
        log = log.set_column(
            log.schema.get_field_index(name), name, pc.multiply(log[name], times)
        )
    wrong = slot_value(log, 3).to_pylist()[1]
    assert wrong["dr"] == pytest.approx(right["dr"] if times else right["ips"])


def test_a_slot_that_was_hardly_shown_has_no_value() -> None:
    few = slot_value(Slot(sharper=0.02).logged(0).slice(0, 50), 1).to_pylist()
    assert [row["ips"] for row in few] == [None, None]
    assert [row["dr"] for row in few] == [None, None]
    assert "collect more impressions" in few[1]["refusal"]


def draws(propensity: list[float], target: list[float]) -> pa.Table:
    return pa.table(
        {
            "user_id": [f"u{at % 50}" for at in range(len(target))],
            "propensity": propensity,
            "target": target,
            "reward": [1.0] * len(target),
        }
    )


def test_too_few_draws_are_no_answer() -> None:
    found = estimate(draws([0.1] * 1000, [0.5] * 60 + [0.0] * 940), 1)
    assert isinstance(found, NoSupport)
    assert found.effective == pytest.approx(60)
    assert "60" in found.reason
    assert isinstance(estimate(draws([], []), 1), NoSupport)
    # positions that were not drawn tell nothing, however many they are
    certain = estimate(draws([1.0] * 1000, [1.0] * 1000), 1)
    assert isinstance(certain, NoSupport)
    assert certain.draws == 0


def test_what_could_not_be_drawn_is_no_answer() -> None:
    # the policy shows half of the time what was in no pool
    found = estimate(draws([0.1] * 1000, [0.05] * 1000), 1)
    assert isinstance(found, NoSupport)
    assert found.covered == pytest.approx(0.5)
    assert "50%" in found.reason


@pytest.mark.parametrize(
    ("propensity", "target"), [(0.0, 0.5), (1.2, 0.5), (0.5, -0.1), (0.5, 1.1)]
)
def test_a_probability_lies_between_0_and_1(propensity: float, target: float) -> None:
    with pytest.raises(ContractError):
        estimate(draws([propensity], [target]), 1)
