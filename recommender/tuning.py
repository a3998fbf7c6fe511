"""Hyper-parameters by random search on the inner split.

Random search (Bergstra and Bengio, "Random Search for Hyper-Parameter
Optimization", 2012): few of the parameters matter on one log, and which these
are is not known beforehand. The first trial is the recipe that is given, and
it stays unless another is surely better for the people held out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recommender.arrays import Doubles
from recommender.build import candidate_features
from recommender.history import History
from recommender.inner_split import Split
from recommender.ranking import cross_validated
from recommender.standalone import Recipe, held_out, labelled_candidates, with_trend

CHOICES: dict[str, tuple[float, ...]] = {
    "als_factors": (16, 32, 64, 128),
    "als_regularization": (1.0, 3.0, 10.0, 30.0, 100.0),
    "als_alpha": (1.0, 2.0, 5.0, 10.0, 20.0),
    "item_item_half_life": (2.0, 5.0, 10.0, 20.0),
    "item_item_shrinkage": (2.0, 10.0, 30.0, 100.0),
    "ease_regularization": (50.0, 100.0, 200.0, 500.0, 1000.0),
}
"""What is tried, by the name of the variable of the dbt project."""


class Trial(msgspec.Struct, frozen=True):
    """``ndcg``: mean over the people whose labels were held out, of lists by a
    ranker that learned from others of them. ``lead``: over the first trial, and
    ``lead_low`` the lower end of its 95 % interval over people. ``retrieved``:
    the share of these people of whose labels one was a candidate. ``seconds``:
    what the trial took."""

    variables: dict[str, float]
    ndcg: float
    lead: float
    lead_low: float
    retrieved: float
    seconds: float


class Tuned(msgspec.Struct, frozen=True):
    """``trials`` in the order they were made; the first one is the defaults."""

    trials: list[Trial]

    @property
    def best(self) -> Trial:
        """The highest NDCG of those that are surely above the defaults, which
        stay where none is: on few people the highest of many is luck."""
        first, *others = self.trials
        surely = [trial for trial in others if trial.lead_low > 0]
        return max(surely, key=lambda trial: trial.ndcg, default=first)


def tune(
    history: History,
    items: pa.Table,
    recipe: Recipe,
    trials: int,
    budget_s: float,
    advance: Callable[[float], None] = lambda _: None,
    served: pa.Array | None = None,
) -> Tuned:
    """Try ``trials`` recipes, or as many as begin within ``budget_s`` seconds,
    at least the one given. ``items``: as from ``read_items``. ``recipe.seed``
    drives what is tried. ``served``: ids of those whom lists are for (None:
    everyone). Nothing is known of what comes after the history."""
    inner = held_out(history, recipe, served)
    recipe = with_trend(inner, recipe)
    rng = np.random.default_rng(recipe.seed)
    began = time.monotonic()
    made: list[Trial] = []
    tried = variables_of(recipe)
    first: Doubles | None = None
    while not made or (len(made) < trials and time.monotonic() - began < budget_s):
        start = time.monotonic()
        ndcg, retrieved = _quality(inner, items, with_variables(recipe, tried))
        lead, low = (0.0, 0.0) if first is None else _lead(ndcg, first)
        first = ndcg if first is None else first
        seconds = round(time.monotonic() - start, 1)
        made.append(Trial(tried, _mean(ndcg), lead, low, retrieved, seconds))
        advance(1)
        tried = {name: float(rng.choice(values)) for name, values in CHOICES.items()}
    return Tuned(made)


def variables_of(recipe: Recipe) -> dict[str, float]:
    """The recipe's values of CHOICES."""
    return {
        "als_factors": recipe.als.factors,
        "als_regularization": recipe.als.regularization,
        "als_alpha": recipe.als.alpha,
        "item_item_half_life": recipe.item_item.half_life,
        "item_item_shrinkage": recipe.item_item.shrinkage,
        "ease_regularization": recipe.ease.regularization,
    }


def with_variables(recipe: Recipe, variables: dict[str, float]) -> Recipe:
    """The recipe with these values of CHOICES."""
    return replace(
        recipe,
        als=msgspec.structs.replace(
            recipe.als,
            factors=int(variables["als_factors"]),
            regularization=variables["als_regularization"],
            alpha=variables["als_alpha"],
        ),
        item_item=msgspec.structs.replace(
            recipe.item_item,
            half_life=variables["item_item_half_life"],
            shrinkage=variables["item_item_shrinkage"],
        ),
        ease=msgspec.structs.replace(
            recipe.ease, regularization=variables["ease_regularization"]
        ),
    )


def _quality(inner: Split, items: pa.Table, recipe: Recipe) -> tuple[Doubles, float]:
    """The NDCG of each person with labels, 0 for whom none was retrieved, and
    the share of those for whom one was."""
    examples = labelled_candidates(inner, items, recipe)
    names = candidate_features(recipe.features)
    found = cross_validated(examples, names, recipe.ranker, recipe.seed)
    people = inner.before.user_ids.take(pa.array(np.unique(inner.after.user)))
    ndcg = np.array([found.get(person, 0.0) for person in people.to_pylist()])
    retrieved = len(pc.unique(examples["group_id"])) / max(len(people), 1)
    return ndcg, round(retrieved, 6)


def _lead(ndcg: Doubles, first: Doubles) -> tuple[float, float]:
    """The mean difference over people and the lower end of its interval."""
    difference = ndcg - first
    error = difference.std() / np.sqrt(max(len(difference), 1))
    return _mean(difference), round(float(difference.mean() - 1.96 * error), 6)


def _mean(values: Doubles) -> float:
    return round(float(values.mean()), 6) if len(values) else 0.0
