"""Writes the part ``model/`` of a build: tables in, arrays aligned by ordinal out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
import xgboost as xgb
from usearch.index import Index

from feedloop import __version__
from feedloop.contracts.builds import (
    FORMAT,
    MODEL,
    Manifest,
    build_dir,
    newest_build,
    read_part,
    write_part,
)
from feedloop.contracts.lists import BuildId
from feedloop.contracts.seeds import Feature, Surface
from feedloop.errors import BuildInvalid, ContractError
from recommender.arrays import (
    VECTOR,
    Doubles,
    Floats,
    Ints,
    codes,
    column,
    ids,
    matrix,
    numbers,
    positions,
)
from recommender.build import (
    CTR,
    FRESH_FILE,
    IMPRESSIONS,
    INDEX_FILE,
    INDEXED_FILE,
    ITEMS_FILE,
    MEAN_TASTE_FILE,
    NEIGHBOUR_SCORES_FILE,
    NEIGHBOURS_FILE,
    NORMS_FILE,
    POPULARITY,
    RANK_OFFSET,
    RANKER_FILE,
    SPEC_FILE,
    TASTES_FILE,
    TRENDING,
    TRENDING_FILE,
    UNIT,
    VALUES_FILE,
    VECTORS_FILE,
    WEIGHED_FILE,
    WEIGHTS_FILE,
    Build,
    Spec,
    candidate_features,
    highest_of,
    open_model,
    quantised,
    ranked_features,
)
from recommender.item_index import (
    build_index,
    open_index,
    ordinals_now,
    update_index,
)
from recommender.params import KernelParams
from recommender.taste_vectors import BESIDE_FACTORS
from recommender.tastes import EVERYBODY, ITEM

MOST_ITEMS = 1 << 24
MOST_NEIGHBOURS = 50

PROBES, PROBED = 64, 300
"""Directions that a build tries, and how many of the nearest it looks at."""


def model_version_of(
    *, params: KernelParams, item_vectors: pa.Table, ranker: bytes | None
) -> str:
    """``als-xgb-<8 hex>``: code, parameters, item vectors and ranker.

    The code is this package's source: a changed line makes another version.
    """
    digest = hashlib.sha256(__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    digest.update(msgspec.json.encode(params, order="sorted"))
    item_vectors = item_vectors.sort_by("item_id")
    dense, _ = matrix(column(item_vectors, "vector", VECTOR))
    digest.update("\x1f".join(ids(item_vectors, "item_id").to_pylist()).encode())
    digest.update(dense.tobytes())
    digest.update(ranker or b"")
    return f"als-xgb-{digest.hexdigest()[:8]}"


def write_model(
    builds_dir: Path,
    *,
    as_of: datetime,
    items: pa.Table,
    item_vectors: pa.Table,
    neighbours: pa.Table,
    weights: pa.Table,
    ranker: bytes | None,
    model_version: str,
    features: Mapping[str, Feature],
    surfaces: Mapping[str, Surface],
    categories: list[str],
    params: KernelParams,
    tastes: pa.Table,
) -> Manifest:
    """Write the part ``model/`` of the build ``model_version@as_of``.

    ``items``: item_id, category, published_at, is_active and one column for
    each ranked item feature (null: the registry's default). ``item_vectors``:
    item_id, vector. ``tastes``: the columns of ``tastes.TASTES``. ``neighbours``:
    item_id, neighbour_id, score (> 0); the 50 highest of an item count.
    ``weights``: item_id, other_id, weight. The same inputs, and of the index the
    same build before, give the same bytes, whatever the order of their rows.
    """
    spec = Spec(
        surfaces=dict(surfaces),
        user_features=ranked_features(features, "user"),
        item_features=ranked_features(features, "item"),
        params=params,
    )
    feature_names = candidate_features(features)
    _check_ranker(ranker, feature_names)
    items, active = _in_popular_order(items, spec)
    item_ids = ids(items, "item_id")
    values, trending = _values(items, active, spec)
    vectors, norms = _aligned_vectors(item_vectors, item_ids)
    near, near_scores = _aligned_neighbours(neighbours, item_ids)
    weighed, weight = _aligned_weights(weights, item_ids)
    category = positions(
        pa.array(categories, pa.string()), column(items, "category", pa.string())
    )
    liked, mean_taste = _aligned_tastes(tastes, item_ids, len(categories))
    fresh = _fresh(items, active, as_of)
    searchable = np.flatnonzero(vectors[:active].any(axis=1))
    longest = highest_of(searchable, norms, params.exact_up_to)
    others = np.setdiff1d(searchable, longest, assume_unique=True)
    index, indexed, added = None, others, 0
    if len(others):
        # in place: at a million items a copy is 256 MB
        scaled: Floats = vectors.astype(np.float32)
        scaled /= UNIT
        scaled *= norms[:, None]
        index, indexed, added = _index(
            builds_dir, as_of, item_ids, scaled, others, params
        )

    manifest = Manifest(
        format=FORMAT,
        build_id=str(BuildId(model_version, as_of)),
        model_version=model_version,
        as_of=as_of,
        surfaces=list(surfaces),
        feature_names=feature_names,
        categories=categories,
        counts={
            "items": len(items),
            "active_items": active,
            "items_with_vector": len(searchable),
            "factors": vectors.shape[1],
            "items_indexed": len(others),
            "items_added_to_index": added,
            "nearest_in_index_per_mille": _per_mille(
                vectors, norms, searchable, others
            ),
        },
    )
    with write_part(builds_dir, MODEL, manifest) as folder:
        catalogue = pa.table(
            {"item_id": item_ids, "category": pa.array(category, pa.int32())}
        )
        with pa.ipc.new_file(folder / ITEMS_FILE, catalogue.schema) as writer:
            writer.write_table(catalogue)
        np.save(folder / VALUES_FILE, values)
        np.save(folder / VECTORS_FILE, vectors)
        np.save(folder / NORMS_FILE, norms)
        np.save(folder / NEIGHBOURS_FILE, near)
        np.save(folder / NEIGHBOUR_SCORES_FILE, near_scores)
        np.save(folder / WEIGHED_FILE, weighed)
        sp.save_npz(folder / WEIGHTS_FILE, weight, compressed=False)
        np.save(folder / TASTES_FILE, liked)
        np.save(folder / MEAN_TASTE_FILE, mean_taste)
        np.save(folder / TRENDING_FILE, trending)
        np.save(folder / FRESH_FILE, fresh)
        np.save(folder / INDEXED_FILE, indexed)
        if index is not None:
            index.save(folder / INDEX_FILE)
        if ranker is not None:
            (folder / RANKER_FILE).write_bytes(ranker)
        (folder / SPEC_FILE).write_bytes(msgspec.json.encode(spec))
    _, written = read_part(builds_dir, manifest.build_id, MODEL)
    return written


def _check_ranker(ranker: bytes | None, feature_names: list[str]) -> None:
    if ranker is None:
        return
    trained = xgb.Booster(model_file=bytearray(ranker)).feature_names
    if trained != feature_names:
        raise ContractError(
            "The ranker was trained on other features than the registry has now; "
            "train it again."
        )


def _in_popular_order(items: pa.Table, spec: Spec) -> tuple[pa.Table, int]:
    """The items by ordinal, and how many are active."""
    item_ids = ids(items, "item_id")
    if len(items) > MOST_ITEMS:
        raise ContractError(
            f"{len(items)} items; one build holds {MOST_ITEMS}. Split the catalogue."
        )
    if pc.count_distinct(item_ids).as_py() != len(items):
        raise ContractError("An item_id stands twice in the build's items.")
    for name in (TRENDING, *POPULARITY, IMPRESSIONS, CTR):
        if name not in spec.item_features:
            raise ContractError(
                f"The kernel needs the ranked item feature {name}; keep it in "
                "feature_registry.csv."
            )
    active = pc.fill_null(column(items, "is_active", pa.bool_()), False).to_numpy(
        zero_copy_only=False
    )
    day, week, month = (_feature(items, name, spec) for name in POPULARITY)
    by_id, _ = codes(item_ids)
    order = np.lexsort((by_id, -day, -week, -month, ~active))
    return items.take(pa.array(order)), int(active.sum())


def _feature(items: pa.Table, name: str, spec: Spec) -> Doubles:
    return numbers(items, name, spec.item_features[name])


def _values(items: pa.Table, active: int, spec: Spec) -> tuple[Floats, Ints]:
    """The matrix of item values, and the trending order of active items."""
    hot = _feature(items, TRENDING, spec)
    day, week, month = (_feature(items, name, spec) for name in POPULARITY)
    by_id, _ = codes(ids(items, "item_id"))
    rank = slice(0, active)
    trending = np.lexsort(
        (by_id[rank], -month[rank], -week[rank], -day[rank], -hot[rank])
    )
    known = (day > 0) | (week > 0) | (month > 0)
    return np.stack(
        [
            *(_feature(items, name, spec) for name in spec.item_features),
            np.where(known, _reciprocal_ranks(trending, len(items)), 0),
            np.where(known, _reciprocal_ranks(np.arange(active), len(items)), 0),
        ],
        axis=1,
    ).astype(np.float32), trending


def _reciprocal_ranks(order: Ints, items: int) -> Doubles:
    found = np.zeros(items)
    found[order] = RANK_OFFSET / (RANK_OFFSET + np.arange(len(order)))
    return found


def _aligned_vectors(
    item_vectors: pa.Table, item_ids: pa.Array
) -> tuple[np.ndarray[Any, np.dtype[np.int16]], Floats]:
    dense, _ = matrix(column(item_vectors, "vector", VECTOR))
    aligned = _aligned(dense, ids(item_vectors, "item_id"), item_ids)
    norms = np.sqrt((aligned.astype(np.float64) ** 2).sum(axis=1))
    return quantised(aligned), (norms / (norms.max(initial=0) or 1)).astype(np.float32)


def _aligned_tastes(
    tastes: pa.Table, item_ids: pa.Array, categories: int
) -> tuple[Floats, Floats]:
    """Of the items by ordinal, and everybody's mean."""

    def of_type(kind: str) -> pa.Table:
        return tastes.filter(pc.equal(tastes["entity_type"], kind))

    mean, _ = matrix(column(of_type(EVERYBODY), "vector", VECTOR))
    if len(mean) == 0:
        return np.zeros((len(item_ids), 0), np.float32), np.zeros(0, np.float32)
    items = of_type(ITEM)
    width = mean.shape[1] - categories + BESIDE_FACTORS
    dense, _ = matrix(column(items, "vector", VECTOR), width)
    return _aligned(dense, ids(items, "entity_id"), item_ids), mean[0]


def _aligned(dense: Floats, names: pa.Array, item_ids: pa.Array) -> Floats:
    """The rows of ``dense``, which are those of ``names``, by ordinal; zeros
    where an item has none."""
    at = positions(names, item_ids)
    aligned = np.zeros((len(item_ids), dense.shape[1]), np.float32)
    aligned[at >= 0] = dense[at[at >= 0]]
    return aligned


def _aligned_neighbours(
    neighbours: pa.Table, item_ids: pa.Array
) -> tuple[np.ndarray[Any, np.dtype[np.int32]], Floats]:
    item = positions(item_ids, ids(neighbours, "item_id"))
    near = positions(item_ids, ids(neighbours, "neighbour_id"))
    score = numbers(neighbours, "score", 0.0)
    kept = (item >= 0) & (near >= 0) & (item != near) & (score > 0)
    item, near, score = item[kept], near[kept], score[kept]
    order = np.lexsort((near, -score, item))
    item, near, score = item[order], near[order], score[order]
    place = np.arange(len(item)) - np.searchsorted(item, item)
    top = place < MOST_NEIGHBOURS
    width = int(place[top].max()) + 1 if top.any() else 0
    padded = np.full((len(item_ids), width), -1, np.int32)
    scores = np.zeros((len(item_ids), width), np.float32)
    padded[item[top], place[top]] = near[top]
    scores[item[top], place[top]] = score[top]
    return padded, scores


def _aligned_weights(
    weights: pa.Table, item_ids: pa.Array
) -> tuple[Ints, sp.csr_matrix]:
    """Ordinals of the weighed items, and their weights for each other."""
    item = positions(item_ids, ids(weights, "item_id"))
    other = positions(item_ids, ids(weights, "other_id"))
    weight = numbers(weights, "weight", 0.0)
    kept = (item >= 0) & (other >= 0) & (item != other)
    item, other, weight = item[kept], other[kept], weight[kept]
    weighed = np.unique(np.concatenate([item, other]))
    at = (np.searchsorted(weighed, item), np.searchsorted(weighed, other))
    shape = (len(weighed), len(weighed))
    return weighed, sp.csr_matrix((weight, at), shape=shape, dtype=np.float32)


def _fresh(items: pa.Table, active: int, as_of: datetime) -> Ints:
    """Active items by falling ``published_at``; what lies ahead is not fresh."""
    instant = column(items, "published_at", pa.timestamp("us", "UTC"))
    published = pc.fill_null(instant.cast(pa.int64()), 0).to_numpy(
        zero_copy_only=False
    )[:active]
    now = pa.scalar(as_of, pa.timestamp("us", "UTC")).cast(pa.int64()).as_py()
    order = np.argsort(-published, kind="stable")
    fresh: Ints = order[published[order] <= now]
    return fresh


def _per_mille(
    vectors: np.ndarray[Any, np.dtype[np.int16]],
    norms: Floats,
    searchable: Ints,
    others: Ints,
) -> int:
    """How many of 1,000 nearest items are at most among the ``others``: exact,
    for the directions of a few items in the place of people's."""
    if len(others) == 0:
        return 0
    asking = searchable[:: max(len(searchable) // PROBES, 1)][:PROBES]
    count = min(PROBED, len(searchable))
    every = vectors[searchable].astype(np.float32)
    most = 0
    for direction in vectors[asking].astype(np.float32):
        dots = (every @ direction) * norms[searchable]
        best = searchable[np.argpartition(-dots, count - 1)[:count]]
        most = max(most, int(np.isin(best, others).sum()))
    return -(-1000 * most // count)


def _index(
    builds_dir: Path,
    as_of: datetime,
    item_ids: pa.Array,
    vectors: Floats,
    wanted: Ints,
    params: KernelParams,
) -> tuple[Index, Ints, int]:
    """The index in which the ``wanted`` ordinals are found, the ordinal of each of
    its keys, and how many items were added to that of the build before."""
    previous = _previous(builds_dir, as_of)
    if previous is not None and previous.index is not None:
        path = build_dir(builds_dir, previous.build_id) / MODEL / INDEX_FILE
        index = open_index(path, params, view=False)
        held = ordinals_now(previous.item_ids, previous.indexed, item_ids)
        updated = update_index(index, held, vectors, wanted, params)
        if updated is not None:
            return index, *updated
    return build_index(vectors[wanted], params), wanted, len(wanted)


def _previous(builds_dir: Path, as_of: datetime) -> Build | None:
    """The build before; none where it can't be read, for it only saves time."""
    name = newest_build(builds_dir, MODEL, before=as_of)
    if name is None:
        return None
    try:
        return open_model(builds_dir, name)
    except BuildInvalid:
        return None
