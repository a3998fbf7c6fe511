"""What came out: the pipeline's lists beside others, on the same people.

How the arms are compared, and why it is fair:

- Only the pipeline's lists are really shown and reported. For the others the
  hidden choice model says what the same people would have done in the same
  sessions, with the same draws: whether a person looks at a position, and
  whether they'd click an item, does not depend on the arm.
- Every morning all arms start from what really happened until then: what is
  dull for whom, what may not come again, what is popular. So each day answers
  "what if this morning's list had been another one", not "what if another
  recommender had run all week". Within the day each arm has clicks of its own:
  what a person clicked on its list is dull in their next session.
- All obey the same rules: active items published before the morning, none that
  the person is known to have clicked, and the surface's cap on one category.
  The pipeline alone also gives a slot in ten to exploration.
- Recall and NDCG ask whether a morning's list held what the person found that
  day by themselves. What people find leans on public popularity, which favours
  the popularity list.
- Sessions that the server gave no list for count for no arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from simulator.app import DayLog
from simulator.choice import NOTHING, ChoiceModel, react
from simulator.pages import Morning, oracle_pages, popularity_pages, random_pages
from simulator.world import CATEGORIES, Bools, Floats, Ints, World, generator

PIPELINE, POPULARITY, RANDOM, ORACLE = "pipeline", "popularity", "random", "oracle"
ARMS = (PIPELINE, POPULARITY, RANDOM, ORACLE)
RESAMPLES = 1000
INTERVAL = (2.5, 97.5)


class Interval(msgspec.Struct, frozen=True):
    """A figure and its 95 % bootstrap interval by person."""

    value: float
    low: float
    high: float


class ArmFigures(msgspec.Struct, frozen=True):
    """``ctr`` is clicks per item shown; ``recall`` and ``ndcg`` at PAGE."""

    ctr: Interval
    recall: Interval
    ndcg: Interval


class Figures(msgspec.Struct, frozen=True):
    """One day, or several together.

    ``lead`` is the pipeline's click-through minus the popularity list's, on
    the same people. ``judged`` counts the lists behind recall and NDCG.
    """

    title: str
    arms: dict[str, ArmFigures]
    lead: Interval
    sessions: int
    without_list: int
    people: int
    judged: int


class Following(msgspec.Struct, frozen=True):
    """Whether lists follow clicks: items of one category on a person's page,
    on a day and on the next day they came.

    ``clicked`` is the mean (before, after) for the categories that the person
    clicked on the first of these pages, ``passed_over`` for those that stood
    there and weren't clicked; ``pairs`` counts (person, category) of each.
    """

    clicked: tuple[float, float]
    passed_over: tuple[float, float]
    pairs: tuple[int, int]


@dataclass(frozen=True)
class Scores:
    """Sums by arm and person, [arms, people of the world].

    ``clicks`` over ``shown`` is click-through; ``recall`` and ``ndcg`` are
    sums over ``judged`` [people] lists.
    """

    clicks: Floats
    shown: Floats
    recall: Floats
    ndcg: Floats
    judged: Floats
    sessions: int
    without_list: int

    def __add__(self, other: Scores) -> Scores:
        return Scores(
            self.clicks + other.clicks,
            self.shown + other.shown,
            self.recall + other.recall,
            self.ndcg + other.ndcg,
            self.judged + other.judged,
            self.sessions + other.sessions,
            self.without_list + other.without_list,
        )


# --- scoring a day -----------------------------------------------------------


def score_day(world: World, model: ChoiceModel, cap: int, log: DayLog) -> Scores:
    """What each arm's lists got, or would have got, on the day of ``log``."""
    plan, morning = log.plan, log.morning
    visitors, row_of = np.unique(plan.person, return_inverse=True)
    counterfactual = (
        popularity_pages(world, morning, visitors, cap),
        random_pages(world, morning, visitors, cap),
        oracle_pages(world, model, morning, visitors, cap),
    )
    shape = (len(ARMS), len(world.people.ids))
    clicks, shown = np.zeros(shape), np.zeros(shape)
    recall, ndcg = np.zeros(shape), np.zeros(shape)
    judged = np.zeros(shape[1])

    served = np.flatnonzero(log.served)
    all_pages = [log.pages, *(pages[row_of] for pages in counterfactual)]
    truth = _truth(world, morning, log)
    first = served[np.unique(plan.person[served], return_index=True)[1]]
    for arm, pages in enumerate(all_pages):
        clicked = replay(world, model, log, pages)[served]
        np.add.at(clicks[arm], plan.person[served], clicked.sum(axis=1))
        there = (pages[served] != NOTHING).sum(axis=1)
        np.add.at(shown[arm], plan.person[served], there)
    for session in first:
        person = plan.person[session]
        relevant = truth.get(int(person))
        if not relevant:
            continue
        judged[person] = 1
        for arm, pages in enumerate(all_pages):
            recall[arm, person], ndcg[arm, person] = recall_and_ndcg(
                pages[session], relevant
            )
    return Scores(
        clicks,
        shown,
        recall,
        ndcg,
        judged,
        len(plan.person),
        len(plan.person) - len(served),
    )


def replay(world: World, model: ChoiceModel, log: DayLog, pages: Ints) -> Bools:
    """[sessions, PAGE] What people would have clicked had each session shown
    its row of ``pages``."""
    plan, morning = log.plan, log.morning
    clicked = np.zeros(pages.shape, dtype=bool)
    today = np.zeros_like(morning.clicked)
    for turn in range(int(plan.round.max(initial=-1)) + 1):
        rows = np.flatnonzero(plan.round == turn)
        people = plan.person[rows]
        appeal = model.appeal(world, morning.day, people)
        dull = morning.clicked[people] | today[people]
        appeal -= model.dullness * dull[:, : appeal.shape[1]]
        draws = log.draws
        reaction = react(
            model, pages[rows], appeal, draws.look[rows], draws.click[rows]
        )
        clicked[rows] = reaction.clicked
        session, position = np.nonzero(reaction.clicked)
        today[people[session], pages[rows][session, position]] = True
    return clicked


def _truth(world: World, morning: Morning, log: DayLog) -> dict[int, set[int]]:
    """What each person found by themselves that a morning's list could hold."""
    plan = log.plan
    person = plan.person[plan.find_session]
    possible = world.known_in_the_morning(morning.day)[plan.find_item]
    possible &= ~morning.known_clicked[person, plan.find_item]
    truth: dict[int, set[int]] = {}
    for who, item in zip(person[possible], plan.find_item[possible], strict=True):
        truth.setdefault(int(who), set()).add(int(item))
    return truth


def recall_and_ndcg(page: Ints, relevant: set[int]) -> tuple[float, float]:
    """Recall and NDCG (Järvelin and Kekäläinen, 2002; binary gains) of one
    page."""
    hits = np.array([int(item) in relevant for item in page])
    discount = 1.0 / np.log2(np.arange(2, len(page) + 2))
    ideal = discount[: min(len(relevant), len(page))].sum()
    return float(hits.sum() / len(relevant)), float((hits * discount).sum() / ideal)


def following(world: World, logs: Sequence[DayLog]) -> Following:
    """Compares each person's first served page of a day with that of the next
    day on which they came."""
    sums = np.zeros((2, 2))
    pairs = np.zeros(2, dtype=np.int64)
    last: dict[int, tuple[Ints, set[int]]] = {}
    for log in logs:
        served = np.flatnonzero(log.served)
        people, first = np.unique(log.plan.person[served], return_index=True)
        for person, session in zip(people.tolist(), served[first], strict=True):
            page = log.pages[session]
            labels = world.items.label[page[page != NOTHING]]
            after = np.bincount(labels, minlength=len(CATEGORIES))
            if person in last:
                before, clicked = last[person]
                for label in np.flatnonzero(before):
                    kind = 0 if int(label) in clicked else 1
                    sums[kind] += before[label], after[label]
                    pairs[kind] += 1
            chosen = world.items.label[page[log.clicked[session]]]
            last[person] = after, set(chosen.tolist())
    means = sums / np.maximum(pairs, 1)[:, None]
    (a, b), (c, d) = means.tolist()
    return Following((a, b), (c, d), (int(pairs[0]), int(pairs[1])))


# --- figures with their uncertainty ------------------------------------------


def figures(title: str, scores: Scores, seed: int) -> Figures:
    """Ratios of sums, with intervals from resampling people."""
    active = np.flatnonzero(scores.shown.any(axis=0))
    count = len(active)
    weights = _resamples(count, seed)

    def ratio(above: Floats, below: Floats) -> Floats:
        """[1 + RESAMPLES] The figure, then its resamples."""
        total = weights @ below[active]
        part = weights @ above[active]
        result: Floats = np.divide(
            part, total, out=np.full(len(total), np.nan), where=total > 0
        )
        return result

    ctr = [ratio(scores.clicks[a], scores.shown[a]) for a in range(len(ARMS))]
    arms = {
        arm: ArmFigures(
            _interval(ctr[row]),
            _interval(ratio(scores.recall[row], scores.judged)),
            _interval(ratio(scores.ndcg[row], scores.judged)),
        )
        for row, arm in enumerate(ARMS)
    }
    return Figures(
        title,
        arms,
        _interval(ctr[ARMS.index(PIPELINE)] - ctr[ARMS.index(POPULARITY)]),
        scores.sessions,
        scores.without_list,
        count,
        int(scores.judged.sum()),
    )


def gain(one: Scores, other: Scores, seed: int) -> Interval:
    """How much more of what the pipeline showed was clicked in ``one`` than in
    ``other``, as a share; with the interval from resampling people, who are the
    same in both."""
    row = ARMS.index(PIPELINE)
    active = np.flatnonzero(one.shown[row] + other.shown[row])
    weights = _resamples(len(active), seed)
    clicks, shown = (
        [weights @ getattr(scores, name)[row, active] for scores in (one, other)]
        for name in ("clicks", "shown")
    )
    # clicks of one over what they would be at the other's click-through
    below = clicks[1] * shown[0]
    ratio = np.divide(
        clicks[0] * shown[1], below, out=np.full(len(below), np.nan), where=below > 0
    )
    return _interval(ratio - 1)


def _resamples(count: int, seed: int) -> Ints:
    """How often each of so many people is drawn; the first row takes everyone
    once."""
    weights: Ints = np.ones((1 + RESAMPLES, count), dtype=np.int64)
    if count:
        rng = generator(seed, "bootstrap")
        weights[1:] = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return weights


def _interval(samples: Floats) -> Interval:
    resampled = samples[1:][np.isfinite(samples[1:])]
    if not len(resampled):
        return Interval(float("nan"), float("nan"), float("nan"))
    low, high = np.percentile(resampled, INTERVAL)
    return Interval(float(samples[0]), float(low), float(high))


def total(scores: Sequence[Scores]) -> Scores:
    """Several days as one; a person is one, however many days they came."""
    first, *others = scores
    for other in others:
        first += other
    return first
