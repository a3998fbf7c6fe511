"""Small worlds whose right answers are known beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feedloop.contracts.seeds import Surface, read_features
from feedloop.settings import from_environment
from recommender.arrays import Doubles, vectors
from recommender.build import Build, open_model, ranked_features
from recommender.build_writer import model_version_of, write_model
from recommender.ease import WEIGHTS
from recommender.kernel import ListKernel
from recommender.params import KernelParams
from recommender.ranking import RankerParams, train_ranker
from recommender.taste_vectors import BESIDE_FACTORS
from recommender.tastes import TASTES

AS_OF = datetime(2025, 1, 10, tzinfo=UTC)
FEATURES = read_features(from_environment({}).seeds_dir)
NO_NEIGHBOURS = pa.table(
    {
        "item_id": pa.array([], pa.string()),
        "neighbour_id": pa.array([], pa.string()),
        "score": pa.array([], pa.float64()),
    }
)


NO_WEIGHTS = WEIGHTS.empty_table()


def surface(
    name: str = "home", *, length: int = 10, explore: int = 0, cap: int = 0
) -> Surface:
    return Surface(
        surface=name,
        list_length=length,
        ttl_hours=48,
        eligibility="active",
        repeat_policy="never",
        exploration_slots=explore,
        diversity_cap=cap,
        attribution_window_hours=24,
        trains_ranker=True,
        serves_list=True,
    )


def item_names(count: int) -> list[str]:
    return [f"i{at:04d}" for at in range(count)]


def items_table(
    count: int,
    *,
    categories: Sequence[str] = ("a",),
    inactive: Sequence[int] = (),
    **values: Sequence[float],
) -> pa.Table:
    """Items i0000, i0001, …, the earlier the more popular, a day older each."""
    columns: dict[str, Any] = {
        "item_id": item_names(count),
        "category": [categories[at % len(categories)] for at in range(count)],
        "published_at": pa.array(
            [AS_OF - timedelta(days=1 + at) for at in range(count)],
            pa.timestamp("us", "UTC"),
        ),
        "is_active": [at not in inactive for at in range(count)],
    }
    for name in ranked_features(FEATURES, "item"):
        columns[name] = pa.array(np.zeros(count))
    for window in ("1d", "7d", "30d"):
        columns[f"item_popularity_{window}"] = np.arange(count, 0, -1.0)
    columns |= values
    return pa.table(columns)


def vectors_table(key: str, names: Sequence[str], dense: Any) -> pa.Table:
    return pa.table(
        {
            key: pa.array(list(names), pa.string()),
            "vector": vectors(np.asarray(dense, np.float32)),
        }
    )


def tastes_by_hand(people: Doubles, items: Doubles) -> Doubles:
    """(people, items): the scores of the vectors that ``emb_tastes`` has of them."""
    width = items.shape[1] - BESIDE_FACTORS
    found: Doubles = people[:, :width] @ items[:, :width].T + items[:, width]
    for at in range(width + 1, items.shape[1], 2):
        found += people[:, width + items[:, at].astype(int)] * items[:, at + 1]
    return found


def no_vectors(factors: int = 2) -> pa.Table:
    return vectors_table("item_id", [], np.zeros((0, factors)))


def make_build(
    folder: Path,
    items: pa.Table,
    *,
    item_vectors: pa.Table | None = None,
    neighbours: pa.Table = NO_NEIGHBOURS,
    weights: pa.Table = NO_WEIGHTS,
    ranker: bytes | None = None,
    surfaces: Sequence[Surface] = (surface(),),
    params: KernelParams | None = None,
    categories: Sequence[str] | None = None,
    tastes: pa.Table | None = None,
    as_of: datetime = AS_OF,
) -> Build:
    item_vectors = no_vectors() if item_vectors is None else item_vectors
    params = params or KernelParams()
    if categories is None:
        categories = sorted(set(items["category"].to_pylist()))
    manifest = write_model(
        folder,
        as_of=as_of,
        items=items,
        item_vectors=item_vectors,
        neighbours=neighbours,
        weights=weights,
        ranker=ranker,
        model_version=model_version_of(
            params=params, item_vectors=item_vectors, ranker=ranker
        ),
        features=FEATURES,
        surfaces={one.surface: one for one in surfaces},
        categories=list(categories),
        params=params,
        tastes=TASTES.empty_table() if tastes is None else tastes,
    )
    return open_model(folder, manifest.build_id)


def users_batch(rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """One row a user; what a row leaves out is null."""
    schema = pa.schema(
        [
            pa.field("user_id", pa.string()),
            pa.field("vector", pa.list_(pa.float32())),
            pa.field("user_category_affinity", pa.list_(pa.float32())),
            pa.field("taste", pa.list_(pa.float32())),
            pa.field("recent_items", pa.list_(pa.string())),
            pa.field("consumed_items", pa.list_(pa.string())),
            *(
                pa.field(name, pa.float64())
                for name in ranked_features(FEATURES, "user")
            ),
        ]
    )
    complete = [dict.fromkeys(schema.names) | dict(row) for row in rows]
    return pa.RecordBatch.from_pylist(complete, schema=schema)


def random_world(
    folder: Path,
    *,
    items: int = 120,
    users: int = 50,
    seed: int = 0,
    consumed: int = 8,
    **build: Any,
) -> tuple[Build, pa.RecordBatch]:
    """A build and users with random vectors, histories, neighbours and weights
    (of the first two thirds of the items)."""
    rng = np.random.default_rng(seed)
    names = item_names(items)
    inactive = rng.choice(items, items // 10, replace=False).tolist()
    table = items_table(
        items,
        categories=["a", "b", "c"],
        inactive=inactive,
        item_trending=rng.integers(0, 50, items).astype(float),
        item_popularity_1d=rng.integers(0, 50, items).astype(float),
        item_impressions_30d=rng.integers(0, 2000, items).astype(float),
        item_ctr_30d=rng.random(items) * 0.2,
    )
    near = rng.integers(0, items, (items, 6))
    neighbours = pa.table(
        {
            "item_id": np.repeat(names, 6),
            "neighbour_id": np.array(names)[near.ravel()],
            "score": rng.random(items * 6),
        }
    )
    item_vectors = vectors_table("item_id", names, rng.normal(size=(items, 8)))
    weighed = items * 2 // 3
    item, other = np.nonzero(rng.random((weighed, weighed)) < 0.2)
    weights = pa.table(
        {
            "item_id": np.array(names)[item],
            "other_id": np.array(names)[other],
            "weight": rng.normal(size=len(item)),
        }
    )
    made = make_build(
        folder,
        table,
        item_vectors=item_vectors,
        neighbours=neighbours,
        weights=weights,
        **build,
    )
    rows = []
    for at in range(users):
        row: dict[str, Any] = {"user_id": f"u{at}"}
        if at % 5:
            row |= {
                "vector": rng.normal(size=8).astype(np.float32).tolist(),
                "user_category_affinity": rng.dirichlet(np.ones(3)).tolist(),
                "recent_items": rng.choice(names, 5, replace=False).tolist(),
                "consumed_items": rng.choice(names, consumed, replace=False).tolist(),
            }
        rows.append(row)
    return made, users_batch(rows)


def ranked_world(
    folder: Path, where: Surface, **build: Any
) -> tuple[Build, pa.RecordBatch]:
    """A random world with a ranker trained on its own candidates."""
    plain, users = random_world(folder, surfaces=[where], **build)
    kernel = ListKernel(plain)
    positives = pa.table(
        {
            "user_id": users["user_id"],
            "item_id": [
                row["item_ids"][at % 5]
                for at, row in enumerate(kernel.lists(users, "home").to_pylist())
            ],
        }
    )
    examples = kernel.candidates_for_training(users, positives)
    ranker = train_ranker(
        examples, plain.feature_names, RankerParams(rounds=10, num_threads=1), seed=0
    )
    assert ranker is not None
    return random_world(folder, surfaces=[where], ranker=ranker.bytes, **build)
