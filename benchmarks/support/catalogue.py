"""A catalogue and its people of any size: vectors as ALS leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feedloop.contracts.seeds import read_features, read_surfaces
from feedloop.settings import from_environment
from recommender import tastes
from recommender.arrays import Floats, vectors
from recommender.build import Build, open_model, ranked_features
from recommender.build_writer import model_version_of, write_model
from recommender.ease import WEIGHTS, EaseParams
from recommender.params import KernelParams
from recommender.taste_model import TasteParams, labelled
from recommender.taste_vectors import of_items

AS_OF = datetime(2026, 1, 8, tzinfo=UTC)
SETTINGS = from_environment({})
FEATURES = read_features(SETTINGS.seeds_dir)
SURFACES = read_surfaces(SETTINGS.seeds_dir)
FACTORS = 64
TASTES = 1000
CATEGORIES = 50
NEIGHBOURS = 20
EASE = EaseParams()
SPREAD = 0.8
"""Of the logarithm of an item's length: that of ALS factors of RetailRocket's
29,905 items, whose longest are nine times as long as the median."""


def directions(count: int, seed: int) -> Floats:
    """Unit vectors around a thousand tastes, whose number of dimensions is that
    of ALS factors: all of them."""
    tastes = np.random.default_rng(0).normal(size=(TASTES, FACTORS))
    rng = np.random.default_rng(seed)
    found = 0.7 * rng.normal(size=(count, FACTORS))
    found += tastes[rng.integers(0, TASTES, count)]
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found.astype(np.float32)


def make_build(
    folder: Path,
    items: int,
    *,
    complete: bool,
    params: KernelParams,
    ranker: bytes | None = None,
    as_of: datetime = AS_OF,
    moved_every: int | None = None,
) -> Build:
    """A build of so many items with their vectors; a ``complete`` one with
    neighbours, EASE's weights of as many items as there are at most, and tastes, too.
    With ``moved_every`` each item of that place has another vector."""
    rng = np.random.default_rng(items)
    names = pa.array(item_names(items))
    popularity = np.sort(rng.lognormal(2, 1.5, items))[::-1]
    values: dict[str, Any] = {
        name: rng.gamma(0.5, 10.0, items) for name in ranked_features(FEATURES, "item")
    }
    for window, share in (("1d", 0.05), ("7d", 0.3), ("30d", 1.0)):
        values[f"item_popularity_{window}"] = np.round(popularity * share)
    values["item_impressions_30d"] = np.round(popularity * 20)
    values["item_ctr_30d"] = rng.beta(2, 40, items)
    catalogue = pa.table(
        {
            "item_id": names,
            "category": [f"category_{at % CATEGORIES:02}" for at in range(items)],
            "published_at": pa.array(
                [AS_OF - timedelta(minutes=at) for at in range(items)],
                pa.timestamp("us", "UTC"),
            ),
            "is_active": np.ones(items, np.bool_),
        }
        | values
    )
    lengths = rng.lognormal(0, SPREAD, items).astype(np.float32)
    dense = directions(items, seed=1) * lengths[:, None]
    if moved_every:
        dense[::moved_every] = dense[::moved_every, ::-1]
    item_vectors = pa.table({"item_id": names, "vector": vectors(dense)})
    version = model_version_of(params=params, item_vectors=item_vectors, ranker=ranker)
    manifest = write_model(
        folder,
        as_of=as_of,
        items=catalogue,
        item_vectors=item_vectors,
        neighbours=_neighbours(names, rng if complete else None),
        weights=_weights(names, rng if complete else None),
        ranker=ranker,
        model_version=version,
        features=FEATURES,
        surfaces=SURFACES,
        categories=sorted(set(catalogue["category"].to_pylist())),
        params=params,
        tastes=_tastes(names) if complete else tastes.TASTES.empty_table(),
    )
    return open_model(folder, manifest.build_id)


def item_names(items: int) -> list[str]:
    return [f"article_{at:07}" for at in range(items)]


def _neighbours(names: pa.Array, rng: np.random.Generator | None) -> pa.Table:
    """``NEIGHBOURS`` others for each item, by chance; none without ``rng``."""
    count = 0 if rng is None else len(names) * NEIGHBOURS
    near = np.zeros(0, np.int64)
    score = np.zeros(0)
    if rng is not None:
        near, score = rng.integers(0, len(names), count), rng.random(count)
    item = np.arange(count) // NEIGHBOURS
    return pa.table(
        {
            "item_id": names.take(pa.array(item)),
            "neighbour_id": names.take(pa.array(near)),
            "score": score,
        }
    )


def _weights(names: pa.Array, rng: np.random.Generator | None) -> pa.Table:
    """As many as there are at most, by chance, of the most popular items; none
    without ``rng``."""
    if rng is None:
        return WEIGHTS.empty_table()
    most, kept = min(EASE.most_items, len(names)), EASE.kept
    item = np.repeat(np.arange(most), kept)
    return pa.table(
        {
            "item_id": names.take(pa.array(item)),
            "other_id": names.take(
                pa.array((item + 1 + np.tile(np.arange(kept), most) * 7) % most)
            ),
            "weight": rng.normal(scale=0.05, size=len(item)).astype(np.float32),
        }
    )


def _tastes(names: pa.Array) -> pa.Table:
    """Everybody's and the items', each item of the category it is labelled with."""
    rng = np.random.default_rng(2)
    count, factors = len(names), TasteParams().factors
    drawn = rng.normal(scale=0.5, size=(count, factors + 1))
    category, share = labelled(np.arange(count) % CATEGORIES)
    items = of_items(drawn[:, :factors], drawn[:, factors], category, share)
    kinds = [tastes.EVERYBODY] + [tastes.ITEM] * count
    every = [np.zeros(factors + CATEGORIES), *items]
    return pa.table([kinds, ["", *names.to_pylist()], every], schema=tastes.TASTES)


def people(count: int, build: Build, seed: int) -> pa.RecordBatch:
    """Kernel users with 30 recent and 60 consumed items each."""
    rng = np.random.default_rng(seed)
    affinity = rng.dirichlet(np.full(CATEGORIES, 0.2), count).astype(np.float32)
    taste = rng.normal(scale=0.5, size=(count, len(build.mean_taste)))
    columns: Mapping[str, Any] = {
        "user_id": [f"usr_{at:010x}" for at in range(count)],
        "vector": vectors(directions(count, seed)),
        "user_category_affinity": vectors(affinity),
        "taste": vectors(taste.astype(np.float32)),
        "recent_items": _some_items(rng, count, 30, build),
        "consumed_items": _some_items(rng, count, 60, build),
    }
    features = {name: rng.gamma(0.5, 10.0, count) for name in build.spec.user_features}
    return pa.RecordBatch.from_pydict({**columns, **features})


def _some_items(
    rng: np.random.Generator, rows: int, each: int, build: Build
) -> pa.ListArray:
    ordinals = rng.integers(0, len(build.item_ids), rows * each)
    offsets = np.arange(rows + 1, dtype=np.int32) * each
    return pa.ListArray.from_arrays(offsets, build.item_ids.take(pa.array(ordinals)))
