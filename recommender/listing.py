"""From a chunk of users and their candidates to lists: features, scores, order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from feedloop.contracts.seeds import Surface
from recommender.arrays import Floats, Ints, Keys
from recommender.build import Build
from recommender.candidates import SOURCES, Candidates
from recommender.explanations import EXPLAINED
from recommender.exploration import explore, floors, nothing_explored, upper_bounds
from recommender.features import assemble, width_before
from recommender.ranking import predict
from recommender.rerank import choose, sort_candidates
from recommender.users import Users


@dataclass(frozen=True)
class Ranked:
    """Lists of a chunk of users, ragged by ``lengths``; what is known of the
    users (one row each) and of the candidates (one row an item) apart.
    ``sources``: places in SOURCES, one beyond the last for exploration.
    ``pool_sizes``: of how many items each one was drawn; ``expectations`` (items,
    EXPECTED): what was expected of that. ``explained``: how many of each list's
    first items are to be explained, and ``to_explain`` their rows of features."""

    lengths: Ints
    items: Ints
    scores: Floats
    sources: Ints
    propensities: Floats
    pool_sizes: Ints
    expectations: Floats
    explained: Ints
    to_explain: Floats
    user_values: Floats
    candidate_values: Floats


def rank(
    users: Users,
    candidates: Candidates,
    build: Build,
    surface: Surface,
    noise: Keys,
    order: Callable[[Build, Floats], Floats] | None = None,
) -> Ranked:
    """Assemble features, score, re-rank, and explore last.

    ``noise``: one random 64-bit number a user. ``order``, in place of the ranker:
    from the build and the matrix of features to one number a candidate, higher
    is better.
    """
    features = assemble(users, candidates, build)
    scores = (order or predict)(build, features)
    grid = sort_candidates(
        candidates, scores, build.item_category, len(build.categories)
    )
    length, cap = surface.list_length, surface.diversity_cap
    if surface.exploration_slots:
        learned = order is None and build.ranker is not None
        bounds = upper_bounds(candidates, scores, build, learned=learned)
        floor = floors(users, build)
        lists, drawn = explore(
            grid, length, cap, candidates, bounds, build, noise, floor, learned=learned
        )
    else:
        lists = choose(grid, length, cap)
        drawn = nothing_explored(len(users), length)
    filled = lists.columns >= 0
    row, position = np.nonzero(filled)
    at = grid.at[row, lists.columns[row, position]]
    lengths = filled.sum(axis=1)
    explained = np.minimum(lengths, EXPLAINED)
    listed = features.take(at, axis=0)
    return Ranked(
        lengths=lengths,
        items=candidates.item[at],
        scores=scores[at],
        sources=np.where(drawn.explored[filled], len(SOURCES), candidates.source[at]),
        propensities=drawn.propensities[filled],
        pool_sizes=drawn.pool_sizes[filled],
        expectations=drawn.expectations[row, position],
        explained=explained,
        to_explain=listed[position < EXPLAINED],
        user_values=users.features,
        candidate_values=listed[:, width_before(build) :],
    )
