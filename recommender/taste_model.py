"""The model behind ``recommender.tastes`` and how it is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec
import numpy as np
import scipy.sparse as sp

from recommender.arrays import Doubles, Floats, Ints

MOST_POSITIONS = 50
"""Positions beyond share the last one's effect."""
CATEGORIES_AN_ITEM = 2
"""An item is of so many categories at most."""
UNKNOWN = -1
WIDTH_AT_FIRST = 0.3
"""Root mean square of a factor where it begins."""
PAIRS_AT_LEAST = 5
"""Added to how many pairs there are of a person or an item, so that one of few
does not lead the search for factors."""
ROUNDS, MORE_THAN_SOUGHT = 10, 6
"""Of the search: how often it goes to and fro, with how many vectors more."""

Parameters = dict[str, Doubles]


class TasteParams(msgspec.Struct, frozen=True, kw_only=True):
    """Few factors and firm penalties: a person has tens of clicks, not hundreds.

    ``alternatives`` to each choice; ``most_choices`` and ``most_shown`` are the
    newest that are learned from. ``mislabelled``: the share of items that are
    thought to be of another category than the catalogue says. Penalties are halves
    of squares. ``steps_before``: without factors; ``steps``: with them.
    """

    factors: int = 4
    alternatives: int = 30
    most_choices: int = 200_000
    most_shown: int = 1_000_000
    mislabelled: float = 0.05
    steps_before: int = 30
    steps: int = 110
    learning_rate: float = 0.05
    user_penalty: float = 1.0
    item_penalty: float = 4.0
    liking_penalty: float = 1.0
    bias_penalty: float = 2.0
    attribute_penalty: float = 1.0
    user_attribute_penalty: float = 2.0
    position_penalty: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class Signal:
    """What tells one click from another: the pairs of which it is known, and how
    strong it is, in standard deviations from the mean."""

    pairs: Ints
    strength: Floats


@dataclass(frozen=True)
class Evidence:
    """The distinct pairs by user and item: ``offsets`` (users + 1), ``user`` and
    ``item``. Of each impression its pair, position (from 0) and whether it was
    clicked; of each choice (choices, 1 + alternatives) the pairs, the chosen one
    first. ``signals`` say how much was liked what was clicked or chosen."""

    offsets: Ints
    user: Ints
    item: Ints
    shown: Ints
    position: Ints
    clicked: Floats
    choices: Ints
    signals: Sequence[Signal]


@dataclass(frozen=True)
class Entities:
    """``people`` and ``items``: their attributes, one row each. ``category`` and
    ``share`` (items, CATEGORIES_AN_ITEM): of which of the ``categories`` each is,
    and how much, shares of one; nothing at all where its category is unknown."""

    people: sp.csr_matrix
    items: sp.csr_matrix
    category: Ints
    share: Doubles
    categories: int

    @cached_property
    def membership(self) -> sp.csr_matrix:
        """(items, categories): the shares."""
        size = self.category.shape
        if not self.categories:
            return sp.csr_matrix((size[0], 0))
        offsets = np.arange(size[0] + 1) * size[1]
        return sp.csr_matrix(
            (self.share.ravel(), self.category.ravel(), offsets),
            shape=(size[0], self.categories),
        )


def labelled(category: Ints) -> tuple[Ints, Doubles]:
    """``category`` and ``share`` as the catalogue has them, UNKNOWN for none."""
    of = np.zeros((len(category), CATEGORIES_AN_ITEM), np.int64)
    share = np.zeros(of.shape)
    of[:, 0] = np.maximum(category, 0)
    share[:, 0] = category != UNKNOWN
    return of, share


def fit(
    evidence: Evidence, entities: Entities, params: TasteParams
) -> tuple[Parameters, Entities]:
    """The most probable tastes: first without factors and with the catalogue's
    categories, then with both as the answers make them likely."""
    found = _start(entities, params)
    _climb(found, evidence, entities, params, params.steps_before)
    if entities.categories > 1 and params.mislabelled:
        entities = _recategorised(found, evidence, entities, params.mislabelled)
    _begin_factors(found, evidence, entities, params)
    _climb(found, evidence, entities, params, params.steps)
    return found, entities


def sums(entities: Entities, found: Parameters) -> tuple[Doubles, Doubles, Doubles]:
    """Factors and likings of people, and factors and bias of items: what the
    attributes say and what is their own."""
    user = np.hstack([found["user"], found["liking"]])
    user += entities.people @ np.hstack([found["user_by"], found["liking_by"]])
    item = found["item"] + entities.items @ found["item_by"]
    bias = found["bias"] + entities.items @ found["bias_by"]
    return user, item, bias[:, 0]


def _start(entities: Entities, params: TasteParams) -> Parameters:
    people, items = entities.people.shape, entities.items.shape
    shapes = {
        "user": (people[0], params.factors),
        "user_by": (people[1], params.factors),
        "liking": (people[0], entities.categories),
        "liking_by": (people[1], entities.categories),
        "item": (items[0], params.factors),
        "item_by": (items[1], params.factors),
        "bias": (items[0], 1),
        "bias_by": (items[1], 1),
        "position": (MOST_POSITIONS, 1),
    }
    found = {name: np.zeros(shape) for name, shape in shapes.items()}
    found["position"] += -3.0
    return found


def _begin_factors(
    found: Parameters, evidence: Evidence, entities: Entities, params: TasteParams
) -> None:
    """Let ``found``, without factors as yet, have those of the answers that
    nothing else explains.

    Their leading singular vectors, each person and item weighed by how sure it is.
    From a random start a factor may be found by none of the steps, and until then
    two others do the work of three.
    """
    left = _residual(found, evidence, entities).by_pair
    of_people = np.diff(evidence.offsets)
    of_items = np.bincount(evidence.item, minlength=left.shape[1])
    people, items = (
        sp.diags_array((pairs + PAIRS_AT_LEAST) ** -0.5)
        for pairs in (of_people, of_items)
    )
    leading = _leading(people @ left @ items, params.factors, params.seed)
    for name, vectors in zip(("user", "item"), leading, strict=True):
        size, count = vectors.shape
        found[name][:, :count] = vectors * size**0.5 * WIDTH_AT_FIRST


def _leading(matrix: sp.csr_matrix, count: int, seed: int) -> tuple[Doubles, Doubles]:
    """About the ``count`` leading singular vectors, left and right, in columns;
    fewer of a smaller matrix.

    Randomised subspace iteration (Halko, Martinsson and Tropp, 2011), which gives
    the same twice even where there are fewer than so many to find.
    """
    width = min(count + MORE_THAN_SOUGHT, *matrix.shape)
    basis = np.random.default_rng(seed).normal(size=(matrix.shape[1], width))
    for _ in range(ROUNDS):
        basis = np.linalg.qr(matrix.T @ (matrix @ basis))[0]
    left, _, turn = np.linalg.svd(matrix @ basis, full_matrices=False)
    return left[:, :count], basis @ turn[:count].T


def _climb(
    found: Parameters,
    evidence: Evidence,
    entities: Entities,
    params: TasteParams,
    steps: int,
) -> None:
    """Full gradients and Adam (Kingma and Ba, 2015); moves ``found``."""
    penalties = {
        "user": params.user_penalty,
        "user_by": params.user_attribute_penalty,
        "liking": params.liking_penalty,
        "liking_by": params.user_attribute_penalty,
        "item": params.item_penalty,
        "item_by": params.attribute_penalty,
        "bias": params.bias_penalty,
        "bias_by": params.attribute_penalty,
        "position": params.position_penalty,
    }
    mean = {name: np.zeros_like(value) for name, value in found.items()}
    square = {name: np.zeros_like(value) for name, value in found.items()}
    for step in range(1, steps + 1):
        gradient = _gradient(found, evidence, entities)
        # smaller steps towards the end settle what the first ones overshot
        rate = params.learning_rate * (1.0 if step < 0.6 * steps else 0.3)
        for name, penalty in penalties.items():
            up = gradient[name] - penalty * found[name]
            mean[name] = 0.9 * mean[name] + 0.1 * up
            square[name] = 0.99 * square[name] + 0.01 * up**2
            scale = np.sqrt(square[name] / (1 - 0.99**step)) + 1e-8
            found[name] += rate * (mean[name] / (1 - 0.9**step)) / scale


@dataclass(frozen=True)
class _Residual:
    """What the likelihood gains by a higher score: of each impression, and of each
    pair in all, (people, items); and the sums that the scores come from."""

    of_shown: Floats
    by_pair: sp.csr_matrix
    user: Doubles
    item: Doubles


def _residual(found: Parameters, evidence: Evidence, entities: Entities) -> _Residual:
    user, item, bias = sums(entities, found)
    score = _scores(user, item, bias, evidence, entities)
    margin = score.take(evidence.shown) + _effects(found, evidence)
    of_shown = evidence.clicked - 1 / (1 + np.exp(-margin))
    chance = score.take(evidence.choices)
    chance -= chance.max(axis=1, keepdims=True, initial=-np.inf)
    np.exp(chance, out=chance)
    of_choices = -chance / chance.sum(axis=1, keepdims=True)
    of_choices[:, 0] += 1
    by_pair = np.bincount(evidence.shown, of_shown, len(score))
    by_pair += np.bincount(evidence.choices.ravel(), of_choices.ravel(), len(score))
    for signal in evidence.signals:
        by_pair += np.bincount(signal.pairs, _of_signal(score, signal), len(score))
    matrix = sp.csr_matrix(
        (by_pair, evidence.item, evidence.offsets), shape=(len(user), len(item))
    )
    return _Residual(of_shown, matrix, user, item)


def _gradient(found: Parameters, evidence: Evidence, entities: Entities) -> Parameters:
    """Of the log-likelihood: each pair's score in single precision, all sums in
    double."""
    residual = _residual(found, evidence, entities)
    by_pair, width = residual.by_pair, residual.item.shape[1]
    to_user = by_pair @ residual.item
    to_liking = (by_pair @ entities.membership).toarray()
    to_item = by_pair.T @ residual.user[:, :width]
    to_bias = np.bincount(evidence.item, by_pair.data, by_pair.shape[1])[:, None]
    to_position = np.bincount(evidence.position, residual.of_shown, MOST_POSITIONS)
    return {
        "user": to_user,
        "liking": to_liking,
        "user_by": entities.people.T @ to_user,
        "liking_by": entities.people.T @ to_liking,
        "item": to_item,
        "item_by": entities.items.T @ to_item,
        "bias": to_bias,
        "bias_by": entities.items.T @ to_bias,
        "position": to_position[:, None],
    }


def _scores(
    user: Doubles,
    item: Doubles,
    bias: Doubles,
    evidence: Evidence,
    entities: Entities,
) -> Floats:
    """Of each pair: bias, factors times factors, and the likings for the item's
    categories."""
    width = item.shape[1]
    found: Floats = bias.astype(np.float32).take(evidence.item)
    for at in range(width):
        theirs = user[:, at].astype(np.float32).take(evidence.user)
        theirs *= item[:, at].astype(np.float32).take(evidence.item)
        found += theirs
    if entities.categories:
        likings = user[:, width:].astype(np.float32).ravel()
        row = evidence.user * entities.categories
        for of, share in zip(entities.category.T, entities.share.T, strict=True):
            if share.any():
                theirs = likings.take(row + of.take(evidence.item))
                theirs *= share.astype(np.float32).take(evidence.item)
                found += theirs
    return found


def _effects(found: Parameters, evidence: Evidence) -> Floats:
    """What its position adds to each impression's log-odds."""
    effect: Floats = found["position"][:, 0].astype(np.float32).take(evidence.position)
    return effect


def _of_signal(score: Floats, signal: Signal) -> Floats:
    """The gradient of a regression of its strength on the score of what was clicked.

    Its slope is the best one for these scores, and none where those who like a
    thing more don't give more of it.
    """
    scores = score.take(signal.pairs)
    scores -= scores.mean() if len(scores) else 0
    spread = float(scores @ scores)
    slope = np.float32(0)
    if spread > 0:
        slope = np.float32(max(0.0, float(scores @ signal.strength) / spread))
    gradient: Floats = slope * (signal.strength - slope * scores)
    return gradient


# --- of which category an item is --------------------------------------------


def _recategorised(
    found: Parameters, evidence: Evidence, entities: Entities, mislabelled: float
) -> Entities:
    """Each item with its likeliest categories, given who clicked it; ``entities``
    as the catalogue has them.

    The label is wrong with the chance ``mislabelled``, and then any other as likely
    as the next (Dawid and Skene, 1979, with one rater).
    """
    likely = _log_likelihoods(found, evidence, entities)
    items, categories = likely.shape
    prior = np.full(likely.shape, mislabelled / (categories - 1))
    prior[np.arange(items), entities.category[:, 0]] = 1 - mislabelled
    likely += np.log(prior)
    chance = np.exp(likely - likely.max(axis=1, keepdims=True))
    best = np.argsort(-chance, axis=1, kind="stable")[:, :CATEGORIES_AN_ITEM]
    share = np.take_along_axis(chance, best, axis=1)
    share /= share.sum(axis=1, keepdims=True)
    share[entities.share[:, 0] == 0] = 0  # of no known category
    return replace(entities, category=best, share=share)


def _log_likelihoods(
    found: Parameters, evidence: Evidence, entities: Entities
) -> Doubles:
    """(items, categories): of the answers to each item, were it of the category.

    What counts is how much more somebody likes a category than others do; how
    popular a category is stands in the item's bias.
    """
    user, item, bias = sums(entities, found)
    likings = user[:, item.shape[1] :]
    likings = likings - likings.mean(axis=0)
    score = _scores(user, item, bias, evidence, entities)
    label = entities.category[:, 0].take(evidence.item)
    bare = score - likings[evidence.user, label]
    shown, chosen = evidence.shown, evidence.choices[:, 0]
    margin = bare.take(shown) + _effects(found, evidence)
    answer = np.where(evidence.clicked > 0, 1.0, -1.0)
    others = np.logaddexp.reduce(score.take(evidence.choices[:, 1:]), axis=1)
    likely = np.zeros((len(item), entities.categories))
    for category in range(entities.categories):
        liking = likings[:, category].take(evidence.user)
        of_shown = -np.logaddexp(0, -answer * (margin + liking.take(shown)))
        margins = bare.take(chosen) + liking.take(chosen) - others
        of_choices = -np.logaddexp(0, -margins)
        for pairs, of_pairs in ((shown, of_shown), (chosen, of_choices)):
            of_items = np.bincount(evidence.item.take(pairs), of_pairs, len(item))
            likely[:, category] += of_items
    return likely
