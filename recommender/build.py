"""The part ``model/`` of a build, opened: everything the kernel reads.

An item's *ordinal* is its row in every array here. Active items come first, by
falling popularity, so that ``ordinal < active_count`` says active and the
ordinal of an active item is its place in the popular order.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
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

from feedloop.contracts.builds import MODEL, Manifest, read_part
from feedloop.contracts.seeds import Feature, Surface
from feedloop.errors import BuildInvalid, ContractError
from recommender.arrays import Bools, Doubles, Floats, Ints, column
from recommender.item_index import open_index
from recommender.params import KernelParams
from recommender.taste_vectors import as_matrix, factors_of

ITEMS_FILE = "items.arrow"
VALUES_FILE = "item_values.npy"
VECTORS_FILE = "item_vectors.npy"
NORMS_FILE = "item_norms.npy"
INDEX_FILE = "items.usearch"
INDEXED_FILE = "indexed_items.npy"
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
    "from_taste",
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
    ``item_tastes`` (items, taste factors + BESIDE_FACTORS), (items, 0) while no
    tastes are known. ``mean_taste`` (taste factors + categories,) or (0,).
    ``trending``, ``fresh``: ordinals of active items in that order. ``indexed``: of
    each key of the ``index`` the ordinal, GONE (-1) of those no longer in it.
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
    indexed: Ints
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
        return highest_of(self.vector_items, self.item_norms, self.params.exact_up_to)

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

    @property
    def has_tastes(self) -> bool:
        """Whether anything is known of tastes yet."""
        return len(self.mean_taste) > 0

    @cached_property
    def tasted_items(self) -> Ints:
        """Ordinals of the active items among which a user's taste searches: the
        ``exact_up_to`` with the highest score of everybody and of those people
        with factors of length one more who like them most."""
        if not self.has_tastes:
            return np.zeros(0, np.int64)
        items = self.item_tastes[: self.active_count]
        factors = items[:, : factors_of(items)]
        most = as_matrix(items, len(self.mean_taste)) @ np.append(self.mean_taste, 1)
        most += np.sqrt((factors * factors).sum(axis=1))
        return highest_of(np.arange(len(items)), most, self.params.exact_up_to)

    @cached_property
    def tasted(self) -> sp.csr_matrix:
        """The tastes of ``tasted_items``, as ``taste_vectors.as_matrix`` has them."""
        return as_matrix(self.item_tastes[self.tasted_items], len(self.mean_taste))

    @cached_property
    def under_shown(self) -> Bools:
        """Which items have fewer impressions than exploration asks for."""
        return np.asarray(self.impressions < self.params.explore_below_impressions)

    @cached_property
    def explorable(self) -> Ints:
        """Ordinals of the active items that are under-shown."""
        return np.flatnonzero(self.under_shown[: self.active_count])

    @cached_property
    def impressions(self) -> Doubles:
        """Of each item in the last 30 days."""
        return self._values_of(IMPRESSIONS)

    @cached_property
    def click_through(self) -> Doubles:
        """Each item's smoothed click-through, above 0 and below 1; that of all
        impressions where an item had none."""
        seen, rate = self.impressions, self._values_of(CTR)
        mean = (seen @ rate) / (seen.sum() or 1.0)
        return np.clip(np.where(seen > 0, rate, mean), 1e-4, 1 - 1e-4)

    @cached_property
    def uncertainty(self) -> Doubles:
        """Standard deviation of the log-odds of each item's click-through.

        Of a Beta posterior with the item's impressions and ``explore_prior``
        pseudo-impressions, by the delta method.
        """
        seen = self.impressions + self.params.explore_prior
        ctr = self.click_through
        deviation: Doubles = 1 / np.sqrt((seen + 1) * ctr * (1 - ctr))
        return deviation

    def _values_of(self, feature: str) -> Doubles:
        at = list(self.spec.item_features).index(feature)
        return self.item_values[:, at].astype(np.float64)

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
        index = open_index(folder / INDEX_FILE, spec.params)

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
        indexed=arrays[INDEXED_FILE],
        ranker=ranker,
    )


def _single(table: pa.Table, name: str) -> pa.Array:
    return column(table, name, table.schema.field(name).type)


def highest_of(ordinals: Ints, values: Floats, most: int) -> Ints:
    """The ``most`` of the ``ordinals`` with the highest of all ``values``, in order."""
    by_value = np.argsort(-values[ordinals], kind="stable")
    highest: Ints = np.sort(ordinals[by_value[:most]])
    return highest
