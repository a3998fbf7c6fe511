"""The part ``model/`` of a build: everything the kernel reads, in one folder.

An item's *ordinal* is its row in every array here. Active items come first, by
falling popularity, so that ``ordinal < active_count`` says active and the
ordinal of an active item is its place in the popular order.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
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
from feedloop.contracts.builds import FORMAT, MODEL, Manifest, read_part, write_part
from feedloop.contracts.lists import BuildId
from feedloop.contracts.seeds import Feature, Surface
from feedloop.errors import BuildInvalid, ContractError
from recommender.arrays import (
    VECTOR,
    Bools,
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
from recommender.params import KernelParams
from recommender.tastes import EVERYBODY, ITEM

ITEMS_FILE = "items.arrow"
VALUES_FILE = "item_values.npy"
VECTORS_FILE = "item_vectors.npy"
NORMS_FILE = "item_norms.npy"
INDEX_FILE = "items.usearch"
NEIGHBOURS_FILE = "neighbours.npy"
NEIGHBOUR_SCORES_FILE = "neighbour_scores.npy"
WEIGHED_FILE = "weighed_items.npy"
WEIGHTS_FILE = "weights.npz"
TASTES_FILE = "item_tastes.npy"
MEAN_TASTE_FILE = "mean_taste.npy"
TRENDING_FILE = "trending.npy"
FRESH_FILE = "fresh.npy"
RANKER_FILE = "ranker.ubj"
SPEC_FILE = "spec.json"

MOST_ITEMS = 1 << 24
MOST_NEIGHBOURS = 50

PROBES, PROBED = 64, 300
"""Directions that a build tries, and how many of the nearest it looks at."""

UNIT = 4000
"""Unit vectors are stored as whole numbers, scaled by this. Every product and
partial sum of two of them is a whole number below 2**24, so that float32 holds
it exactly: a cosine is the same whatever the batch, the BLAS or the order of
summation. The error of a cosine is about that of f16."""

CROSS_FEATURES = (
    "trending_reciprocal_rank",
    "popular_reciprocal_rank",
    "als_cosine",
    "als_reciprocal_rank",
    "item_item_score",
    "item_item_reciprocal_rank",
    "ease_score",
    "ease_reciprocal_rank",
    "category_affinity",
    "taste",
    "from_als",
    "from_item_item",
    "from_ease",
    "from_trending",
    "from_popular",
    "from_fresh",
)
RANK_OFFSET = 60
"""A reciprocal rank is 60 / (60 + rank), rank from 0; 0 where there is no
rank. 60 as in Cormack et al., "Reciprocal Rank Fusion" (2009)."""

TRENDING = "item_trending"
POPULARITY = ("item_popularity_1d", "item_popularity_7d", "item_popularity_30d")
IMPRESSIONS, CTR = "item_impressions_30d", "item_ctr_30d"


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What the arrays of a build mean. Features in the registry's order."""

    surfaces: dict[str, Surface]
    user_features: dict[str, float]
    item_features: dict[str, float]
    params: KernelParams


@dataclass(frozen=True)
class Build:
    """An opened part ``model/``. Large arrays are memory-mapped.

    ``item_values`` (items, ranked item features + 2): the features, defaults
    filled, and the reciprocal ranks in the trending and popular order.
    ``item_vectors`` (items, factors): unit vectors times ``UNIT``, int16.
    ``item_norms`` (items,): the vectors' lengths over the longest one's.
    ``neighbours`` (items, 50): ordinals, -1 where there are fewer.
    ``weighed`` (weighed items,): ordinals, rising, of those with EASE's weights;
    ``weights`` (weighed items, weighed items): what having taken the one weighs for
    the other, float32.
    ``item_tastes`` (items, taste factors + 1): factors and bias, (items, 0) while
    no tastes are known. ``mean_taste`` (taste factors + categories,) or (0,).
    ``trending``, ``fresh``: ordinals of active items in that order.
    """

    manifest: Manifest
    spec: Spec
    item_ids: pa.Array
    active_count: int
    item_category: Ints
    item_values: Floats
    item_vectors: np.ndarray[Any, np.dtype[np.int16]]
    item_norms: Floats
    neighbours: np.ndarray[Any, np.dtype[np.int32]]
    neighbour_scores: Floats
    weighed: Ints
    weights: sp.csr_matrix
    item_tastes: Floats
    mean_taste: Floats
    trending: Ints
    fresh: Ints
    index: Index | None
    ranker: xgb.Booster | None
    index_lock: threading.Lock = field(default_factory=threading.Lock)
    """A usearch index keeps scratch space by thread number: one search at a time."""

    @property
    def build_id(self) -> str:
        return self.manifest.build_id

    @property
    def feature_names(self) -> list[str]:
        return self.manifest.feature_names

    @property
    def categories(self) -> list[str]:
        return self.manifest.categories

    @property
    def params(self) -> KernelParams:
        return self.spec.params

    def surface(self, name: str) -> Surface:
        try:
            return self.spec.surfaces[name]
        except KeyError as error:
            raise ContractError(
                f"The build {self.build_id} knows no surface {name!r}; it has "
                f"{', '.join(self.spec.surfaces)}."
            ) from error

    @cached_property
    def has_vector(self) -> Bools:
        return np.asarray(self.item_vectors.any(axis=1))

    @cached_property
    def vector_items(self) -> Ints:
        """Ordinals of the active items with a vector."""
        return np.flatnonzero(self.has_vector[: self.active_count])

    @cached_property
    def longest_items(self) -> Ints:
        """Those of ``vector_items`` that are searched exactly."""
        return _longest(self.vector_items, self.item_norms, self.params.exact_up_to)

    @cached_property
    def longest_vectors(self) -> Floats:
        """The vectors of ``longest_items`` as float32."""
        return self.item_vectors[self.longest_items].astype(np.float32)

    @property
    def index_share(self) -> float:
        """The most of a user's nearest items that may be in the index only."""
        return self.manifest.counts["nearest_in_index_per_mille"] / 1000

    @cached_property
    def weighed_place(self) -> Ints:
        """(items,): the place of each in ``weighed``, -1 where it has no weights."""
        place = np.full(len(self.item_ids), -1)
        place[self.weighed] = np.arange(len(self.weighed))
        return place

    @cached_property
    def under_shown(self) -> Bools:
        """Which items have fewer impressions than exploration asks for."""
        at = list(self.spec.item_features).index(IMPRESSIONS)
        return self.item_values[:, at] < self.params.explore_below_impressions

    @cached_property
    def explorable(self) -> Ints:
        """Ordinals of the active items that are under-shown."""
        return np.flatnonzero(self.under_shown[: self.active_count])

    @cached_property
    def click_through(self) -> Doubles:
        """Each item's smoothed click-through, above 0 and below 1."""
        at = list(self.spec.item_features).index(CTR)
        return np.clip(self.item_values[:, at].astype(np.float64), 1e-4, 1 - 1e-4)

    @cached_property
    def uncertainty(self) -> Doubles:
        """Standard deviation of the log-odds of each item's click-through.

        Of a Beta posterior with the item's impressions and ``explore_prior``
        pseudo-impressions, by the delta method.
        """
        at = list(self.spec.item_features).index(IMPRESSIONS)
        seen = self.item_values[:, at].astype(np.float64) + self.params.explore_prior
        ctr = self.click_through
        deviation: Doubles = 1 / np.sqrt((seen + 1) * ctr * (1 - ctr))
        return deviation

    @cached_property
    def _ordinal_of(self) -> dict[str, int]:
        return {item: at for at, item in enumerate(self.item_ids.to_pylist())}

    def ordinals(self, items: pa.Array) -> Ints:
        """The ordinal of each item id; -1 where the build doesn't know it."""
        encoded = items.dictionary_encode()
        known = np.fromiter(
            (self._ordinal_of.get(item, -1) for item in encoded.dictionary.to_pylist()),
            np.int64,
            len(encoded.dictionary),
        )
        if len(known) == 0:
            return np.full(len(items), -1)
        at: Ints = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
        return np.where(at < 0, -1, known[at])


def quantised(vectors: Floats) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Rows scaled to length ``UNIT`` and rounded; a zero row stays zero."""
    wide = vectors.astype(np.float64)
    length = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    scale = np.divide(UNIT, length, out=np.zeros_like(length), where=length > 0)
    whole: np.ndarray[Any, np.dtype[np.int16]] = np.rint(wide * scale).astype(np.int16)
    return whole


def ranked_features(features: Mapping[str, Feature], entity: str) -> dict[str, float]:
    """Name and default of the ranked features of ``user`` or ``item``."""
    ranked = {
        name: feature
        for name, feature in features.items()
        if feature.ranked and feature.entity_type == entity
    }
    for name, feature in ranked.items():
        if feature.width != 1:
            raise ContractError(
                f"The feature {name} has width {feature.width}; the ranker reads "
                "single numbers only, so set ranked to false in feature_registry.csv."
            )
    return {name: feature.default_value for name, feature in ranked.items()}


def candidate_features(features: Mapping[str, Feature]) -> list[str]:
    """The names of a candidate row's features, in the order of its columns."""
    return [
        *ranked_features(features, "user"),
        *ranked_features(features, "item"),
        *CROSS_FEATURES,
    ]


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
    ``weights``: item_id, other_id, weight. The same inputs give the same bytes,
    whatever the order of their rows.
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
    longest = _longest(searchable, norms, params.exact_up_to)
    others = np.setdiff1d(searchable, longest, assume_unique=True)

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
        if len(others):
            index = _index(others, vectors[others], norms[others], params)
            index.save(folder / INDEX_FILE)
        if ranker is not None:
            (folder / RANKER_FILE).write_bytes(ranker)
        (folder / SPEC_FILE).write_bytes(msgspec.json.encode(spec))
    _, written = read_part(builds_dir, manifest.build_id, MODEL)
    return written


def open_model(builds_dir: Path, build_id: str) -> Build:
    """The build's part ``model/``, hashes checked.

    Raises ``BuildInvalid`` where it is missing, torn or of another format.
    """
    folder, manifest = read_part(builds_dir, build_id, MODEL)
    try:
        spec = msgspec.json.decode((folder / SPEC_FILE).read_bytes(), type=Spec)
    except (FileNotFoundError, msgspec.DecodeError) as error:
        raise BuildInvalid(
            f"{folder / SPEC_FILE} can't be read ({error}); run `dbt build` again."
        ) from error
    with pa.memory_map(str(folder / ITEMS_FILE)) as source:
        catalogue = pa.ipc.open_file(source).read_all().combine_chunks()
    ranker = None
    if RANKER_FILE in manifest.files:
        ranker = xgb.Booster(model_file=bytearray((folder / RANKER_FILE).read_bytes()))
    index = None
    if INDEX_FILE in manifest.files:
        index = Index.restore(folder / INDEX_FILE, view=True)

    arrays = {
        name: np.load(folder / name, mmap_mode="r").view(np.ndarray)
        for name in manifest.files
        if name.endswith(".npy")
    }

    return Build(
        manifest=manifest,
        spec=spec,
        item_ids=_single(catalogue, "item_id"),
        active_count=manifest.counts["active_items"],
        item_category=_single(catalogue, "category").to_numpy().astype(np.int64),
        item_values=arrays[VALUES_FILE],
        item_vectors=arrays[VECTORS_FILE],
        item_norms=arrays[NORMS_FILE],
        neighbours=arrays[NEIGHBOURS_FILE],
        neighbour_scores=arrays[NEIGHBOUR_SCORES_FILE],
        weighed=arrays[WEIGHED_FILE],
        weights=sp.load_npz(folder / WEIGHTS_FILE),
        item_tastes=arrays[TASTES_FILE],
        mean_taste=arrays[MEAN_TASTE_FILE],
        trending=arrays[TRENDING_FILE],
        fresh=arrays[FRESH_FILE],
        index=index,
        ranker=ranker,
    )


def _single(table: pa.Table, name: str) -> pa.Array:
    return column(table, name, table.schema.field(name).type)


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
    dense, _ = matrix(column(items, "vector", VECTOR), mean.shape[1] - categories + 1)
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


def _longest(ordinals: Ints, norms: Floats, most: int) -> Ints:
    """The ``most`` of the ``ordinals`` with the longest vectors, in order."""
    by_length = np.argsort(-norms[ordinals], kind="stable")
    longest: Ints = np.sort(ordinals[by_length[:most]])
    return longest


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
    ordinals: Ints,
    vectors: np.ndarray[Any, np.dtype[np.int16]],
    norms: Floats,
    params: KernelParams,
) -> Index:
    """Of inner products, built in order on one thread, so that it repeats.

    Vectors keep their lengths: the known transformations to a metric space
    (Bachrach et al., 2014) lose a third of the neighbours here, where a few
    items are a thousand times longer than most.
    """
    index = Index(
        ndim=vectors.shape[1],
        metric="ip",
        dtype="f16",
        connectivity=params.index_connectivity,
        expansion_add=params.index_expansion_add,
        expansion_search=params.index_expansion_search,
        enable_key_lookups=False,
    )
    index.add(ordinals, vectors.astype(np.float32) / UNIT * norms[:, None], threads=1)
    return index
