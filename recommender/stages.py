"""The stages of a run, table in and table out: what dbt Python models call.

A stage adds to the mathematics only what a warehouse run needs: the instant
(``purpose``, ``as_of``) a row belongs to, and whether training is due.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from feedloop.contracts import builds
from feedloop.contracts.seeds import EventType, Feature, Surface
from recommender import priors, quotas
from recommender.build import candidate_features, open_model
from recommender.build_writer import model_version_of, write_model
from recommender.candidates import shares
from recommender.ease import EaseParams, train_weights
from recommender.embeddings import AlsParams, fold_in_users, map_cold_items
from recommender.examples import aligned
from recommender.history import read_history
from recommender.inner_split import split
from recommender.item_item import ItemItemParams, train_neighbours
from recommender.kernel import TRAINING_COLUMNS, ListKernel
from recommender.params import KernelParams
from recommender.ranking import RankerParams, train_ranker
from recommender.taste_model import TasteParams
from recommender.tastes import TASTES, learn_tastes
from recommender.trend import TrendParams, best_half_life

SERVING, TRAINING = "serving", "training"

OUTGROWN = 1.5
"""So many times the examples it learned from, and a ranker is trained again."""

MOST_WITHOUT_FACTORS = 0.1
"""Of the items with interactions: beyond this share factors are trained again."""


def of_purpose(table: pa.Table, purpose: str) -> pa.Table:
    """The rows of one purpose, without the column that names it."""
    rows = table.filter(pc.equal(table["purpose"], purpose))
    return rows.drop_columns("purpose")


def serving_instant(instants: pa.Table) -> datetime:
    """The ``as_of`` of the run."""
    (row,) = of_purpose(instants, SERVING).to_pylist()
    as_of: datetime = row["as_of"]
    return as_of


def is_due(
    previous: pa.Table | None, recipe: str, as_of: datetime, every_days: int
) -> bool:
    """Whether to train again: nothing was trained, with another recipe, too
    long ago, or (a rebuilt past) later than ``as_of``."""
    if previous is None or previous.num_rows == 0:
        return True
    trained_at = pc.max(previous["trained_at"]).as_py()
    if previous["recipe"][0].as_py() != recipe or trained_at > as_of:
        return True
    return bool(as_of - trained_at >= timedelta(days=every_days))


TREND_SCHEMA = pa.schema(
    [
        pa.field("half_life_hours", pa.float64()),
        pa.field("recall", pa.string()),
        pa.field("trained_at", pa.timestamp("us", "UTC")),
        pa.field("recipe", pa.string()),
    ]
)


def trend(
    instants: pa.Table,
    engagements: pa.Table,
    event_types: Mapping[str, EventType],
    params: TrendParams,
    previous: pa.Table | None,
    every_days: int,
) -> pa.Table:
    """How fast trends fade, as a table of one row; the previous one while not
    due.

    ``engagements``: user_id, item_id, event_type, occurred_at, up to the run's
    instant, in a given order.
    """
    as_of = serving_instant(instants)
    recipe = repr(params)
    if previous is not None and not is_due(previous, recipe, as_of, every_days):
        return previous
    history = read_history(engagements, event_types)
    inner = split(history, params.label_share, params.most_labels)
    chosen = best_half_life(inner, params.among, params.half_life_hours)
    row = {
        "half_life_hours": chosen.half_life_hours,
        "recall": json.dumps(chosen.recall),
        "trained_at": as_of,
        "recipe": recipe,
    }
    return pa.Table.from_pylist([row], TREND_SCHEMA)


def item_factors(
    instants: pa.Table,
    items: pa.Table,
    train: Callable[[str], pa.Table],
    recipe: str,
    previous: pa.Table | None,
    every_days: int,
) -> pa.Table:
    """Item factors for every instant, or the previous ones while not due.

    They are due before their time where too many items with interactions have
    none, as on news. ``instants``: purpose, as_of. ``items``: purpose, item_id, of
    those with interactions. ``train``: a purpose's factors (ITEM_VECTORS), by what
    ``recipe`` names. Returns purpose, item_id, vector, trained_at, recipe.
    """
    as_of = {row["purpose"]: row["as_of"] for row in instants.to_pylist()}
    if previous is not None and not is_due(
        previous, recipe, as_of[SERVING], every_days
    ):
        trained = set(previous["purpose"].to_pylist())
        if trained >= set(as_of) and not _too_many_lack(previous, items):
            return previous
    parts = []
    for purpose, instant in as_of.items():
        factors = train(purpose)
        parts.append(
            _labelled(factors, purpose, trained_at=instant).append_column(
                "recipe", pa.array([recipe] * factors.num_rows, pa.string())
            )
        )
    return pa.concat_tables(parts)


def _too_many_lack(factors: pa.Table, items: pa.Table) -> bool:
    """Whether more of the items with interactions than MOST_WITHOUT_FACTORS
    have no factors."""
    asked = pc.unique(of_purpose(items, SERVING)["item_id"])
    known = pc.unique(of_purpose(factors, SERVING)["item_id"])
    lacking = pc.sum(pc.invert(pc.is_in(asked, value_set=known))).as_py() or 0
    return bool(lacking > MOST_WITHOUT_FACTORS * len(asked))


def _labelled(table: pa.Table, purpose: str, **instants: datetime) -> pa.Table:
    rows = table.num_rows
    table = table.add_column(0, "purpose", pa.array([purpose] * rows, pa.string()))
    for name, instant in instants.items():
        column = pa.array([instant] * rows, pa.timestamp("us", "UTC"))
        table = table.append_column(name, column)
    return table


def item_vectors(instants: pa.Table, items: pa.Table, factors: pa.Table) -> pa.Table:
    """A vector for every item: its factors, or one mapped from what the
    catalogue says of it.

    ``items``: purpose, item_id, category, tags, title. Returns purpose,
    item_id, vector, is_cold, as_of.
    """
    parts = []
    for row in instants.to_pylist():
        purpose, as_of = row["purpose"], row["as_of"]
        warm = of_purpose(factors, purpose).select(["item_id", "vector"])
        cold = map_cold_items(of_purpose(items, purpose), warm)
        for table, is_cold in ((warm, False), (cold, True)):
            flags = pa.array([is_cold] * table.num_rows, pa.bool_())
            flagged = table.append_column("is_cold", flags)
            parts.append(_labelled(flagged, purpose, as_of=as_of))
    return pa.concat_tables(parts)


def user_vectors(
    instants: pa.Table,
    interactions: pa.Table,
    vectors: pa.Table,
    params: AlsParams,
) -> pa.Table:
    """Every user folded in from the interactions up to the instant, against
    the items' vectors.

    ``vectors``: of ``item_vectors``. Returns purpose, user_id, vector, as_of.
    """
    parts = []
    for row in instants.to_pylist():
        purpose = row["purpose"]
        theirs = of_purpose(vectors, purpose)
        trained = theirs.filter(pc.invert(theirs["is_cold"]))
        folded = fold_in_users(
            of_purpose(interactions, purpose),
            trained,
            params,
            mapped=theirs.filter(theirs["is_cold"]),
        )
        parts.append(_labelled(folded, purpose, as_of=row["as_of"]))
    return pa.concat_tables(parts)


def user_priors(
    instants: pa.Table, people: pa.Table, vectors: pa.Table, segments: pa.Table
) -> pa.Table:
    """What alike people like, for everyone without a vector of their own.

    ``people``: purpose and the columns of ``priors.user_priors``. ``vectors``:
    of ``user_vectors``. ``segments``: purpose, segment, people, vector. Returns
    purpose, user_id, vector, category_affinity, as_of.
    """
    parts = []
    for row in instants.to_pylist():
        purpose = row["purpose"]
        prior = priors.user_priors(
            of_purpose(people, purpose),
            of_purpose(vectors, purpose),
            of_purpose(segments, purpose),
        )
        parts.append(_labelled(prior, purpose, as_of=row["as_of"]))
    return pa.concat_tables(parts)


def item_neighbours(
    instants: pa.Table, user_items: pa.Table, params: ItemItemParams
) -> pa.Table:
    """The nearest items of each item at every instant.

    ``user_items``: purpose, user_id, item_id, recency_place. Returns purpose,
    item_id, neighbour_id, score, as_of.
    """
    return _at_each_instant(
        instants, user_items, partial(train_neighbours, params=params)
    )


def item_weights(
    instants: pa.Table, user_items: pa.Table, params: EaseParams
) -> pa.Table:
    """What each of the most taken items weighs for the others at every instant.

    ``user_items``: purpose, user_id, item_id, recency_place. Returns purpose,
    item_id, other_id, weight, as_of.
    """
    return _at_each_instant(instants, user_items, partial(train_weights, params=params))


def _at_each_instant(
    instants: pa.Table, known: pa.Table, train: Callable[[pa.Table], pa.Table]
) -> pa.Table:
    """What ``train`` makes of that which was ``known`` at each instant."""
    parts = []
    for row in instants.to_pylist():
        made = train(of_purpose(known, row["purpose"]))
        parts.append(_labelled(made, row["purpose"], as_of=row["as_of"]))
    return pa.concat_tables(parts)


def tastes(
    instants: pa.Table,
    events: pa.Table,
    *,
    people: pa.Table,
    items: pa.Table,
    categories: pa.Table,
    params: TasteParams,
) -> pa.Table:
    """What people would click if they saw it, at the run's instant: the columns
    of ``tastes.TASTES`` with purpose and as_of."""
    names = _in_order(categories)
    learned = learn_tastes(events, people, items, names, params)
    return _labelled(learned, SERVING, as_of=serving_instant(instants))


def _in_order(categories: pa.Table) -> list[str]:
    names: list[str] = categories.sort_by("category_place")["category"].to_pylist()
    return names


def write_build(
    builds_dir: Path,
    *,
    as_of: datetime,
    items: pa.Table,
    vectors: pa.Table,
    neighbours: pa.Table,
    weights: pa.Table,
    categories: pa.Table,
    ranker: bytes | None,
    features: Mapping[str, Feature],
    surfaces: Mapping[str, Surface],
    params: KernelParams,
    tastes: pa.Table | None = None,
) -> builds.Manifest:
    """Write the part ``model/`` of the build of this run."""
    item_vectors = vectors.select(["item_id", "vector"])
    # Vectors of cold items change with the catalogue; the model doesn't.
    factors = item_vectors.filter(pc.invert(vectors["is_cold"]))
    version = model_version_of(params=params, item_vectors=factors, ranker=ranker)
    return write_model(
        builds_dir,
        as_of=as_of,
        items=items,
        item_vectors=item_vectors,
        neighbours=neighbours.select(["item_id", "neighbour_id", "score"]),
        weights=weights.select(["item_id", "other_id", "weight"]),
        ranker=ranker,
        model_version=version,
        features=features,
        surfaces=surfaces,
        categories=_in_order(categories),
        params=params,
        tastes=TASTES.empty_table() if tastes is None else tastes,
    )


def training_candidates(
    instants: pa.Table,
    users: Iterable[pa.RecordBatch],
    labels: pa.Table,
    *,
    items: pa.Table,
    vectors: pa.Table,
    neighbours: pa.Table,
    weights: pa.Table,
    categories: pa.Table,
    features: Mapping[str, Feature],
    surfaces: Mapping[str, Surface],
    params: KernelParams,
    seed: int,
) -> pa.Table:
    """Ranker examples from a time split: candidates as they would have been at
    the training instant, labelled with what came after it. Empty where the
    run has no training instant.

    ``labels``: user_id, item_id.
    """
    as_of = {row["purpose"]: row["as_of"] for row in instants.to_pylist()}
    names = candidate_features(features)
    if TRAINING not in as_of:
        return _with_names(TRAINING_COLUMNS.empty_table(), names)
    with tempfile.TemporaryDirectory(prefix="feedloop-training-") as scratch:
        manifest = write_build(
            Path(scratch),
            as_of=as_of[TRAINING],
            items=of_purpose(items, TRAINING),
            vectors=of_purpose(vectors, TRAINING),
            neighbours=of_purpose(neighbours, TRAINING),
            weights=of_purpose(weights, TRAINING),
            categories=categories,
            ranker=None,
            features=features,
            surfaces=surfaces,
            params=params,
        )
        kernel = ListKernel(open_model(Path(scratch), manifest.build_id), seed=seed)
        parts = [kernel.candidates_for_training(batch, labels) for batch in users]
    examples = pa.concat_tables(parts) if parts else TRAINING_COLUMNS.empty_table()
    return _with_names(examples, names)


def _with_names(examples: pa.Table, names: Sequence[str]) -> pa.Table:
    column = pa.array([list(names)] * examples.num_rows, pa.list_(pa.string()))
    return examples.append_column("feature_names", column)


RANKER_SCHEMA = pa.schema(
    [
        pa.field("trained_at", pa.timestamp("us", "UTC")),
        pa.field("recipe", pa.string()),
        pa.field("model", pa.binary()),
        pa.field("examples", pa.int64()),
        pa.field("metrics", pa.string()),
        pa.field("importances", pa.string()),
        pa.field("quotas", pa.string()),
    ]
)


def ranker(
    instants: pa.Table,
    examples: pa.Table,
    features: Mapping[str, Feature],
    params: RankerParams,
    seed: int,
    previous: pa.Table | None,
    every_days: int,
) -> pa.Table:
    """The ranker as a table of one row, with the quotas that the same examples
    speak for, for lists from now on; the previous one while not due, or no
    row where there is nothing to learn from.

    It is due before its time where it learned from a time split and there is a
    log by now, and where there is OUTGROWN times as much to learn from.
    """
    as_of = serving_instant(instants)
    names = candidate_features(features)
    shown = examples["position"].null_count < len(examples)
    start = shares(KernelParams())
    recipe = f"{params!r} {start} seed={seed} shown={shown} {' '.join(names)}"
    if (
        previous is not None
        and not is_due(previous, recipe, as_of, every_days)
        and len(examples) < OUTGROWN * previous["examples"][0].as_py()
    ):
        return previous
    examples = aligned(examples, names, features)
    trained = train_ranker(examples, names, params, seed)
    if trained is None:
        return RANKER_SCHEMA.empty_table()
    row = {
        "trained_at": as_of,
        "recipe": recipe,
        "model": trained.bytes,
        "examples": examples.num_rows,
        "metrics": json.dumps(trained.metrics, sort_keys=True),
        "importances": json.dumps(trained.importances, sort_keys=True),
        "quotas": json.dumps(quotas.learnt(examples, names, KernelParams())),
    }
    return pa.Table.from_pylist([row], RANKER_SCHEMA)


def quotas_in_force(params: KernelParams, ranker: pa.Table) -> KernelParams:
    """``params`` with the quotas of the ``ranker`` stage, if it has a row."""
    for row in ranker.to_pylist():
        params = quotas.with_shares(params, json.loads(row["quotas"]))
    return params


BUILD_SCHEMA = pa.schema(
    [
        pa.field("build_id", pa.string()),
        pa.field("model_version", pa.string()),
        pa.field("as_of", pa.timestamp("us", "UTC")),
        pa.field("feature_names", pa.list_(pa.string())),
        pa.field("items", pa.int64()),
    ]
)


def build_row(manifest: builds.Manifest) -> pa.Table:
    """The manifest as the one row of ``rec_build``."""
    row = {
        "build_id": manifest.build_id,
        "model_version": manifest.model_version,
        "as_of": manifest.as_of,
        "feature_names": manifest.feature_names,
        "items": manifest.counts["items"],
    }
    return pa.Table.from_pylist([row], BUILD_SCHEMA)
