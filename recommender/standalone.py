"""The stages without a warehouse: from a log of interactions to lists.

The same embeddings, neighbours, candidates, ranker and re-ranking that dbt
runs, over tables at hand. What a stage learns from ends where its labels
begin: the ranker's examples are candidates as they would have been at an
earlier instant, labelled with what came after it; only then is everything
fitted again on the whole log.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedloop.contracts.seeds import Feature, Surface
from recommender import stages
from recommender.arrays import (
    VECTOR,
    Bools,
    Ints,
    column,
    ids,
    positions,
    vectors,
)
from recommender.build import Build, candidate_features, open_model, ranked_features
from recommender.ease import EaseParams, train_weights
from recommender.embeddings import AlsParams, fold_in_users, train_item_factors
from recommender.history import (
    INSTANT,
    History,
    affinities,
    first_seen,
    instants,
    interactions,
    item_lists,
    item_values,
    microseconds,
    user_items,
    user_values,
)
from recommender.inner_split import Split, split
from recommender.item_item import ItemItemParams, train_neighbours
from recommender.kernel import TRAINING_COLUMNS, ListKernel
from recommender.params import KernelParams
from recommender.quotas import learnt, with_shares
from recommender.ranking import RankerParams, best_blend, train_ranker
from recommender.trend import HALF_LIVES_HOURS, best_half_life

STRINGS = pa.list_(pa.string())
MOST_CONSUMED = 1 << 20
ALL_ITEMS = 1000
NO_HALF_LIFE = 1e9
"""As many as the kernel looks at, none more than another."""
BLEND_WEIGHTS = (0.25, 0.0, 1.0, 4.0, 16.0)
"""Tried for what trends and for what is popular, the default first: from lists
by taste alone to lists that are almost the same for everyone."""


@dataclass(frozen=True)
class Recipe:
    """What the stages are run with. ``seed`` drives samples and ties.

    ``label_share`` and ``most_labels`` bound what an inner split holds out:
    the fewer hours that takes, the nearer to what lists are made for.
    """

    features: Mapping[str, Feature]
    surface: Surface
    als: AlsParams = field(default_factory=AlsParams)
    item_item: ItemItemParams = field(default_factory=ItemItemParams)
    ease: EaseParams = field(default_factory=EaseParams)
    kernel: KernelParams = field(default_factory=KernelParams)
    ranker: RankerParams = field(default_factory=RankerParams)
    trend_half_life_hours: float = 4.0
    label_share: float = 0.1
    most_labels: int = 10_000
    training_users: int = 10_000
    recent_items: int = 50
    seed: int = 0
    threads: int = 0


@dataclass(frozen=True)
class Fitted:
    """The stages at one instant: everything to make lists from."""

    recipe: Recipe
    history: History
    as_of: datetime
    build: Build
    factors: pa.Table

    def kernel(self, *, ranked: bool = True) -> ListKernel:
        """``ranked`` False: the blend of the sources instead of the ranker."""
        build = self.build if ranked else replace(self.build, ranker=None)
        return ListKernel(build, seed=self.recipe.seed, threads=self.recipe.threads)

    def users(self, user_ids: pa.Array) -> pa.Table:
        """Kernel users, one row an id; of an unknown one nothing is known."""
        history, build = self.history, self.build
        code = positions(history.user_ids, user_ids)
        wanted = np.zeros(len(history.user_ids), np.bool_)
        wanted[code[code >= 0]] = True
        theirs = history.only(wanted[history.user])
        folded = fold_in_users(
            interactions(theirs, self.as_of), self.factors, self.recipe.als
        )
        category = np.full(len(history.item_ids), -1)
        known = build.ordinals(history.item_ids)
        category[known >= 0] = build.item_category[known[known >= 0]]
        columns = {
            "user_id": user_ids,
            "vector": _of(
                folded["vector"], positions(ids(folded, "user_id"), user_ids)
            ),
            "user_category_affinity": _of(
                vectors(
                    affinities(
                        theirs, self.as_of, category, len(build.categories)
                    ).astype(np.float32)
                ),
                code,
            ),
            # a log without impressions teaches no tastes
            "taste": pa.nulls(len(user_ids), VECTOR),
            "recent_items": _of(item_lists(theirs, self.recipe.recent_items), code),
            "consumed_items": _of(item_lists(theirs, MOST_CONSUMED), code),
        }
        values = user_values(theirs, self.as_of, build.params.sure_from_items)
        for name, default in build.spec.user_features.items():
            found = values.get(name)
            columns[name] = (
                pa.array(np.full(len(user_ids), default))
                if found is None
                else pc.fill_null(_of(pa.array(found), code), default)
            )
        return pa.table(columns)


def _of(values: pa.Array | pa.ChunkedArray, at: Ints) -> pa.Array:
    """``values`` at those places; null where the place is negative."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.take(pa.array(at, mask=at < 0))


def read_items(table: pa.Table | None, history: History) -> pa.Table:
    """Every item of the log and of the catalogue ``table`` (item_id, and where
    known category, title, tags, published_at, is_active), sorted by item_id.

    ``published_at`` of an item that has none: its first interaction, for an
    item that had none either the log's beginning.
    """
    seen = pa.table({"item_id": history.item_ids})
    if table is None:
        table = seen
    known = table.set_column(
        table.column_names.index("item_id"),
        "item_id",
        column(table, "item_id", pa.string()),
    )
    item_ids = pa.concat_arrays([history.item_ids, ids(known, "item_id")]).unique()
    item_ids = item_ids.take(pc.array_sort_indices(item_ids))
    at = positions(ids(known, "item_id"), item_ids)
    start = int(history.at[0]) if len(history) else 0
    first = np.full(len(item_ids), start)
    first[positions(item_ids, history.item_ids)] = first_seen(
        history, len(history.item_ids)
    )
    if "published_at" in known.column_names and history.timed:
        said = known["published_at"]
        valid = known.filter(pc.is_valid(said))
        published = np.full(len(known), np.iinfo(np.int64).min)
        published[pc.is_valid(said).to_numpy()] = instants(valid, "published_at")
        found = np.where(at >= 0, published[at], np.iinfo(np.int64).min)
        first = np.where(found == np.iinfo(np.int64).min, first, found)
    return pa.table(
        {
            "item_id": item_ids,
            "category": _known(known, "category", pa.string(), at),
            "title": _known(known, "title", pa.string(), at),
            "tags": _known(known, "tags", STRINGS, at),
            "published_at": pa.array(first, pa.int64()),
            "is_active": pc.fill_null(_known(known, "is_active", pa.bool_(), at), True),
        }
    )


def _known(table: pa.Table, name: str, kind: pa.DataType, at: Ints) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(len(at), kind)
    return _of(column(table, name, kind), at)


@contextmanager
def fitted(
    history: History,
    items: pa.Table,
    as_of: datetime,
    recipe: Recipe,
    ranker: bytes | None = None,
) -> Iterator[Fitted]:
    """Every stage fitted on ``history``; the build's folder lives as long as
    the context."""
    factors = train_item_factors(interactions(history, as_of), recipe.als)
    pairs = user_items(history)
    neighbours = train_neighbours(pairs, recipe.item_item, ordered=history.timed)
    seen = np.zeros(len(history.item_ids), np.bool_)
    seen[history.item] = True
    published = items["published_at"].to_numpy() <= microseconds(as_of)
    existing = items.filter(pa.array(published))
    existing = existing.filter(_exists(existing, history, seen))
    instant = pa.table(
        {"purpose": [stages.SERVING], "as_of": pa.array([as_of], INSTANT)}
    )
    purpose = pa.repeat(stages.SERVING, len(existing))
    mapped = stages.item_vectors(
        instant,
        existing.append_column("purpose", purpose),
        factors.append_column("purpose", pa.repeat(stages.SERVING, len(factors))),
    )
    categories = pc.drop_null(existing["category"].unique())
    categories = categories.take(pc.array_sort_indices(categories))
    with tempfile.TemporaryDirectory(prefix="feedloop-lists-") as scratch:
        manifest = stages.write_build(
            Path(scratch),
            as_of=as_of,
            items=_with_values(existing, history, as_of, recipe),
            vectors=mapped,
            neighbours=neighbours,
            weights=train_weights(pairs, recipe.ease),
            categories=pa.table(
                {
                    "category": categories,
                    "category_place": np.arange(len(categories)),
                }
            ),
            ranker=ranker,
            features=recipe.features,
            surfaces={recipe.surface.surface: recipe.surface},
            params=recipe.kernel,
        )
        build = open_model(Path(scratch), manifest.build_id)
        yield Fitted(recipe, history, as_of, build, factors)


def _exists(items: pa.Table, history: History, seen: Bools) -> pa.Array:
    """Items of the history only once seen in it; the catalogue's others too."""
    code = positions(history.item_ids, ids(items, "item_id"))
    return pa.array((code < 0) | seen[code])


def _with_values(
    items: pa.Table, history: History, as_of: datetime, recipe: Recipe
) -> pa.Table:
    """The columns of ``items`` and one for each ranked item feature."""
    code = positions(history.item_ids, ids(items, "item_id"))
    published = items["published_at"].to_numpy()
    values = item_values(
        history, as_of, len(history.item_ids), recipe.trend_half_life_hours
    )
    table = items.set_column(
        items.column_names.index("published_at"),
        "published_at",
        pa.array(published, INSTANT),
    )
    age = np.floor((microseconds(as_of) - published) / 86_400_000_000)
    for name, default in ranked_features(recipe.features, "item").items():
        if name == "item_age_days" and history.timed:
            found = age
        elif name in values:
            found = np.where(code >= 0, values[name][code], default)
        else:
            found = np.full(len(items), default)
        table = table.append_column(name, pa.array(found.astype(float)))
    return table


def suited(recipe: Recipe, history: History) -> Recipe:
    """The recipe for ``history``: where it has no times, none of a person's items
    is later than another, and all of them tell what is alike."""
    if history.timed:
        return recipe
    kernel = msgspec.structs.replace(
        recipe.kernel, recent_items=ALL_ITEMS, recent_half_life=NO_HALF_LIFE
    )
    return replace(recipe, kernel=kernel, recent_items=ALL_ITEMS)


def held_out(history: History, recipe: Recipe, served: pa.Array | None = None) -> Split:
    """The inner split that everything is tuned and the ranker is trained on.

    ``served``: ids of those whom lists are for (see ``split``). The labels are
    of people with a history, a seeded ``training_users`` of them at most.
    """
    wanted = None
    if served is not None:
        wanted = np.zeros(len(history.user_ids), np.bool_)
        code = positions(history.user_ids, served)
        wanted[code[code >= 0]] = True
    inner = split(history, recipe.label_share, recipe.most_labels, wanted)
    known = np.zeros(len(history.user_ids), np.bool_)
    known[inner.before.user] = True
    users = np.unique(inner.after.user[known[inner.after.user]])
    chosen = np.random.default_rng(recipe.seed).permutation(users)
    labelled = np.zeros(len(history.user_ids), np.bool_)
    labelled[chosen[: recipe.training_users]] = True
    return replace(inner, after=inner.after.only(labelled[inner.after.user]))


def with_trend(inner: Split, recipe: Recipe) -> Recipe:
    """The recipe with the half-life that the inner split speaks for."""
    chosen = best_half_life(inner, HALF_LIVES_HOURS, recipe.trend_half_life_hours)
    return replace(recipe, trend_half_life_hours=chosen.half_life_hours)


def labelled_candidates(inner: Split, items: pa.Table, recipe: Recipe) -> pa.Table:
    """Candidates of the inner split's people as they would have been then,
    labelled with what came after it (TRAINING_COLUMNS)."""
    user_ids = inner.before.user_ids
    labels = pa.table(
        {
            "user_id": user_ids.take(pa.array(inner.after.user)),
            "item_id": inner.after.item_ids.take(pa.array(inner.after.item)),
        }
    )
    if len(labels) == 0:
        return TRAINING_COLUMNS.empty_table()
    with fitted(inner.before, items, inner.as_of, recipe) as then:
        people = then.users(labels["user_id"].combine_chunks().unique())
        return then.kernel().candidates_for_training(people, labels)


def with_blend(examples: pa.Table, recipe: Recipe) -> Recipe:
    """The recipe with those of BLEND_WEIGHTS under which the blend of the
    sources ranked the ``examples`` best."""
    tried = [
        msgspec.structs.replace(recipe.kernel, blend_trending=hot, blend_popular=known)
        for hot in BLEND_WEIGHTS
        for known in BLEND_WEIGHTS
    ]
    names = candidate_features(recipe.features)
    return replace(recipe, kernel=best_blend(examples, names, tried))


def with_quotas(examples: pa.Table, recipe: Recipe) -> Recipe:
    """The recipe with the quotas that the ``examples`` speak for, for lists of a
    later instant than theirs."""
    if len(examples) == 0:
        return recipe
    names = candidate_features(recipe.features)
    found = learnt(examples, names, recipe.kernel)
    return replace(recipe, kernel=with_shares(recipe.kernel, found))


def learnt_ranker(examples: pa.Table, recipe: Recipe) -> bytes | None:
    """The ranker, from ``labelled_candidates``; None where they hold nothing
    to learn from."""
    trained = train_ranker(
        examples, candidate_features(recipe.features), recipe.ranker, recipe.seed
    )
    return trained.bytes if trained else None
