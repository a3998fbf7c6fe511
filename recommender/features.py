"""The feature row of a candidate: one function for training and for scoring.

Columns: ranked user features, ranked item features (both in the registry's
order), then ``build.CROSS_FEATURES``. Factors themselves are never a feature,
for they rotate from one training to the next; their normalised dot and its
rank don't.
"""

from __future__ import annotations

import numpy as np

from recommender import taste_vectors
from recommender.arrays import (
    Bools,
    Floats,
    Ints,
    descending,
    offsets_of,
    sorted_rows,
)
from recommender.build import CROSS_FEATURES, RANK_OFFSET, Build
from recommender.candidates import NO_RANK, SOURCES, Candidates
from recommender.users import Users


def width_before(build: Build) -> int:
    """How many columns come before those of the candidate alone: the user's and
    the item's, of which the same values stand in many rows."""
    of_item: int = build.item_values.shape[1]
    return len(build.spec.user_features) + of_item


def assemble(users: Users, candidates: Candidates, build: Build) -> Floats:
    """The matrix (candidates, build.feature_names), float32, row-major."""
    row, item = candidates.row, candidates.item
    matrix = np.empty((len(row), len(build.feature_names)), np.float32)
    of_user = users.features.shape[1]
    of_item = width_before(build)
    matrix[:, :of_user] = users.features.take(row, axis=0)
    matrix[:, of_user:of_item] = build.item_values.take(item, axis=0)

    has_cosine = users.has_vector.take(row) & build.has_vector.take(item)
    category = build.item_category.take(item)
    cross: dict[str, Floats] = {
        "als_cosine": candidates.als_cosine,
        "als_reciprocal_rank": _reciprocal_rank(
            candidates, candidates.als_cosine * build.item_norms.take(item), has_cosine
        ),
        "item_item_score": candidates.item_item_score,
        "item_item_reciprocal_rank": _reciprocal_rank(
            candidates, candidates.item_item_score, candidates.item_item_score > 0
        ),
        "ease_score": candidates.ease_score,
        "ease_reciprocal_rank": _reciprocal_rank(
            candidates, candidates.ease_score, candidates.ease_score > 0
        ),
        "category_affinity": _affinity(users, row, category),
        "taste": _tastes(users, candidates, build),
    }
    offset = of_item - CROSS_FEATURES.index("als_cosine")
    for name, values in cross.items():
        matrix[:, offset + CROSS_FEATURES.index(name)] = values
    first = offset + CROSS_FEATURES.index(f"from_{SOURCES[0]}")
    brought = (candidates.ranks != NO_RANK).astype(np.float32)
    matrix[:, first : first + len(SOURCES)] = brought
    return matrix


def _reciprocal_rank(candidates: Candidates, score: Floats, ranked: Bools) -> Floats:
    """Reciprocal rank by ``score`` among those of the user's ``ranked`` candidates
    that a source brought: what else was asked for moves nobody's rank."""
    found = np.zeros(len(score), np.float32)
    at = np.flatnonzero(ranked)
    row = candidates.row[at]
    offsets = offsets_of(row, len(candidates.offsets) - 1)
    start = candidates.offsets.take(row)
    keys = descending(score[at]) << np.uint64(32) | (at - start).astype(np.uint64)
    order = (sorted_rows(keys, offsets) & np.uint64(0xFFFFFFFF)).astype(np.int64)
    order += start
    before: Ints = np.zeros(len(at) + 1, np.int64)
    np.cumsum(candidates.sourced.take(order), out=before[1:])
    rank = before[:-1] - before[offsets].take(row)
    found[order] = RANK_OFFSET / (RANK_OFFSET + rank)
    return found


def _affinity(users: Users, row: Ints, category: Ints) -> Floats:
    if users.affinity.shape[1] == 0:
        return np.zeros(len(row), np.float32)
    place = row * users.affinity.shape[1] + category
    known = users.affinity.ravel().take(np.maximum(place, 0))
    return np.where(category >= 0, known, np.float32(0))


def _tastes(users: Users, candidates: Candidates, build: Build) -> Floats:
    row, item = candidates.row, candidates.item
    if not build.has_tastes:
        return np.zeros(len(row), np.float32)
    return taste_vectors.scores(users.taste, row, build.item_tastes[item])
