"""What people would click if they saw it, learned from what they were shown.

Latent factors with regression priors (Agarwal and Chen, "Regression-based Latent
Factor Models", 2009) for two kinds of evidence. An impression is a Bernoulli
draw, whose log-odds are the person's taste for the item plus what its position
alone adds. What somebody found by themselves is a choice among what was on offer
on that day, by a softmax with sampled alternatives. A person's taste for an item
is

    bias(item) + factors(person) . factors(item) + likings(person) . categories(item)

and biases, factors and likings are what attributes say (a person's country, say, or
an item's tags) plus a part of their own, which is pulled towards zero: of whom
little is known, the attributes speak. How long somebody stayed with what they
clicked, and what they did with it besides, says how much they liked it, as far as it
goes with the rest. An item is of
the category its catalogue says, until those who click it say otherwise. ALS learns
from engagements alone and takes all that somebody did not touch for a mild dislike;
this model learns from what they passed over, too, and so needs a log of impressions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from recommender import taste_vectors
from recommender.arrays import (
    VECTOR,
    Doubles,
    Floats,
    Ints,
    codes,
    column,
    flat,
    ids,
    numbers,
    offsets_of,
    positions,
    ragged,
    rows_of,
    vectors,
)
from recommender.taste_model import (
    MOST_POSITIONS,
    Entities,
    Evidence,
    Signal,
    TasteParams,
    fit,
    labelled,
    sums,
)

USER, ITEM, EVERYBODY = "user", "item", "everybody"
TASTES = pa.schema(
    [
        pa.field("entity_type", pa.string()),
        pa.field("entity_id", pa.string()),
        pa.field("vector", VECTOR),
    ]
)
"""``user`` and ``everybody`` (one row, the mean, for people without one):
factors, then a liking for each category. ``item``: ``taste_vectors.of_items``."""

MOST_ATTRIBUTES = 2_000
POPULAR_DAYS = 3


def learn_tastes(
    events: pa.Table,
    people: pa.Table,
    items: pa.Table,
    categories: Sequence[str],
    params: TasteParams,
) -> pa.Table:
    """Tastes (TASTES) of everyone in ``people`` or ``events`` and of all
    ``items``; no rows where nothing was shown to anyone.

    ``events``: user_id, item_id, day, position (from 1; null: found without a
    list), label (1: clicked), dwell_ms (null: not known), worth (the weights of
    what they did with it, added up; null: nothing). ``people``: user_id,
    country, device, referral_source, declared_preferences. ``items``: item_id,
    category, tags, published_at, is_active. An unknown item is left out.
    """
    people, items = _everyone(people, events), items.sort_by("item_id")
    evidence = _evidence(_newest_first(events), people, items, params)
    if len(evidence.shown) == 0:
        return TASTES.empty_table()
    fitted, entities = fit(evidence, _entities(people, items, categories), params)
    taste, liked, bias = sums(entities, fitted)
    mean = taste.mean(axis=0, keepdims=True)
    # zero is what everybody thinks of the average item, and so of an unknown one
    width = params.factors
    likings = entities.membership @ mean[0, width:]
    bias -= (liked @ mean[0, :width] + bias + likings).mean()
    rows = taste_vectors.of_items(liked, bias, entities.category, entities.share)
    return pa.concat_tables(
        [
            _table(EVERYBODY, pa.array([""]), mean),
            _table(USER, ids(people, "user_id"), taste),
            _table(ITEM, ids(items, "item_id"), rows),
        ]
    )


def _evidence(
    events: pa.Table, people: pa.Table, items: pa.Table, params: TasteParams
) -> Evidence:
    """What ``events``, newest first, say of ``people`` and ``items``."""
    user = positions(ids(people, "user_id"), ids(events, "user_id"))
    item = positions(ids(items, "item_id"), ids(events, "item_id"))
    position = numbers(events, "position", 0).astype(np.int64)
    known = item >= 0
    shown = np.flatnonzero(known & (position > 0))[: params.most_shown]
    found = np.flatnonzero(known & (position == 0))[: params.most_choices]
    others = _alternatives(
        user[found], item[found], _days(events, "day")[found], items, params
    )
    everything = len(items)
    pairs, of = np.unique(
        np.concatenate(
            [
                user[shown] * everything + item[shown],
                (user[found][:, None] * everything + others).ravel(),
            ]
        ),
        return_inverse=True,
    )
    of_shown, choices = of[: len(shown)], of[len(shown) :].reshape(others.shape)
    clicked = numbers(events, "label", 0)[shown] > 0
    answered = np.concatenate([shown[clicked], found])
    answers = np.concatenate([of_shown[clicked], choices[:, 0]])
    dwell_ms = numbers(events, "dwell_ms", 0)[answered]
    stayed = dwell_ms > 0
    worth = numbers(events, "worth", 0)[answered]
    return Evidence(
        offsets=offsets_of(pairs // everything, len(people)),
        user=pairs // everything,
        item=pairs % everything,
        shown=of_shown,
        position=np.minimum(position[shown], MOST_POSITIONS) - 1,
        clicked=clicked.astype(np.float32),
        choices=choices,
        signals=[
            Signal(answers[stayed], _standardised(np.log(dwell_ms[stayed]))),
            Signal(answers, _standardised(worth)),
        ],
    )


def _standardised(values: Doubles) -> Floats:
    """In standard deviations from the mean, three at most: a tab left open says
    little, and one who bought everything not much more than one who bought."""
    spread = values.std() if len(values) else 0
    if spread == 0:
        return np.zeros(len(values), np.float32)
    found: Doubles = np.clip((values - values.mean()) / spread, -3, 3)
    return found.astype(np.float32)


def _entities(people: pa.Table, items: pa.Table, categories: Sequence[str]) -> Entities:
    names = pa.array(categories, pa.string())
    label = positions(names, column(items, "category", pa.string()))
    category, share = labelled(label)
    return Entities(
        _attributes(
            len(people),
            {
                "": pa.array([""] * len(people)),
                "country": people["country"],
                "device": people["device"],
                "referral": people["referral_source"],
                "declared": people["declared_preferences"],
            },
        ),
        _attributes(len(items), {"category": items["category"], "tag": items["tags"]}),
        category,
        share,
        len(categories),
    )


def _everyone(people: pa.Table, events: pa.Table) -> pa.Table:
    """``people`` and whoever stands in ``events`` only, by user_id."""
    every = pc.unique(
        pa.concat_arrays([ids(people, "user_id"), ids(events, "user_id")])
    ).sort()
    at = positions(ids(people, "user_id"), every)
    rows = people.take(pa.array(at, mask=at < 0))
    place = rows.schema.get_field_index("user_id")
    return rows.set_column(place, "user_id", every)


def _newest_first(events: pa.Table) -> pa.Table:
    keys = ("user_id", "item_id", "position", "label", "dwell_ms", "worth")
    order = [(name, "ascending") for name in keys]
    return events.sort_by([("day", "descending"), *order])


def _days(table: pa.Table, name: str) -> Ints:
    days = column(table, name, pa.date32()).cast(pa.int32())
    found: Ints = pc.fill_null(days, 0).to_numpy(zero_copy_only=False)
    return found.astype(np.int64)


def _alternatives(
    user: Ints, item: Ints, day: Ints, items: pa.Table, params: TasteParams
) -> Ints:
    """(choices, 1 + alternatives): the chosen item, then others that were on
    offer that day, drawn by the root of how popular they were just before.

    On offer from its publication until nobody chose it any more, an active
    item until today.
    """
    rng = np.random.default_rng(params.seed)
    instants = column(items, "published_at", pa.timestamp("us", "UTC"))
    begins = _days(pa.table({"day": instants.cast(pa.date32())}), "day")
    ends = np.full(len(items), -1)
    np.maximum.at(ends, item, day)
    active = pc.fill_null(column(items, "is_active", pa.bool_()), False)
    ends[active.to_numpy(zero_copy_only=False)] = np.iinfo(np.int64).max
    drawn = np.tile(item[:, None], (1, 1 + params.alternatives))
    for today in np.unique(day):
        rows = np.flatnonzero(day == today)
        before = item[(day < today) & (day >= today - POPULAR_DAYS)]
        weight = np.sqrt(1.0 + np.bincount(before, minlength=len(items)))
        weight[(begins > today) | (ends < today)] = 0
        edges = np.cumsum(weight)
        if edges[-1] > 0:
            luck = rng.random((len(rows), params.alternatives)) * edges[-1]
            drawn[rows, 1:] = np.searchsorted(edges, luck, side="right")
    return drawn


def _attributes(rows: int, columns: Mapping[str, Any]) -> sp.csr_matrix:
    """(rows, attributes): which row has which, the most frequent ones."""
    row, names = [], []
    for kind, values in columns.items():
        listed, at = flat(values), np.arange(rows)
        if pa.types.is_list(listed.type):
            offsets, listed = ragged(listed)
            at = rows_of(offsets)
        row.append(at[pc.is_valid(listed).to_numpy(zero_copy_only=False)])
        spoken = pc.drop_null(listed).cast(pa.string())
        names.append(pc.binary_join_element_wise(kind, spoken, "="))
    attribute, _ = codes(pa.concat_arrays(names))
    count = np.bincount(attribute)
    kept = np.sort(np.argsort(-count, kind="stable")[:MOST_ATTRIBUTES])
    every = sp.csr_matrix(
        (np.ones(len(attribute)), (np.concatenate(row), attribute)),
        shape=(rows, len(count)),
    )
    every.data[:] = 1.0
    return every[:, kept].tocsr()


def _table(kind: str, names: pa.Array, dense: Doubles) -> pa.Table:
    rows = vectors(dense.astype(np.float32))
    return pa.table([pa.array([kind] * len(names)), names, rows], schema=TASTES)
