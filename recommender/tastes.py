"""What people would click if they saw it, learned from what they were shown.

Latent factors with regression priors (Agarwal and Chen, "Regression-based Latent
Factor Models", 2009) for two kinds of evidence. An impression is a Bernoulli
draw, whose log-odds are the person's taste for the item plus what its position
alone adds. What somebody found by themselves is a choice among what was on offer
on that day, by a softmax with sampled alternatives. A person's taste for an item
is

    bias(item) + factors(person) . factors(item) + liking(person, category(item))

and every one of the four is what attributes say (a person's country, say, or an
item's tags) plus a part of its own, which is pulled towards zero: of whom little
is known, the attributes speak. ALS learns from engagements alone and takes all
that somebody did not touch for a mild dislike; this model learns from what they
passed over, too, and so needs a log of impressions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

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

USER, ITEM, EVERYBODY = "user", "item", "everybody"
TASTES = pa.schema(
    [
        pa.field("entity_type", pa.string()),
        pa.field("entity_id", pa.string()),
        pa.field("vector", VECTOR),
    ]
)
"""``user`` and ``everybody`` (one row, the mean, for people without one):
factors, then a liking for each category. ``item``: factors, then its bias."""

MOST_POSITIONS = 50
"""Positions beyond share the last one's effect."""
MOST_ATTRIBUTES = 2_000
POPULAR_DAYS = 3

Parameters = dict[str, Doubles]


class TasteParams(msgspec.Struct, frozen=True, kw_only=True):
    """Few factors and firm penalties: a person has tens of clicks, not hundreds.

    ``alternatives`` to each choice; ``most_choices`` and ``most_shown`` are the
    newest that are learned from. Penalties are halves of squares.
    """

    factors: int = 4
    alternatives: int = 60
    most_choices: int = 50_000
    most_shown: int = 1_000_000
    steps: int = 200
    learning_rate: float = 0.05
    user_penalty: float = 1.0
    item_penalty: float = 4.0
    liking_penalty: float = 1.5
    bias_penalty: float = 2.0
    attribute_penalty: float = 1.0
    user_attribute_penalty: float = 2.0
    position_penalty: float = 0.01
    seed: int = 0


@dataclass(frozen=True)
class _Evidence:
    """The distinct pairs by user and item: ``offsets`` (users + 1), ``user``, ``item``
    and ``liking``, the cell of user and category in (users, categories + 1). Of each
    impression its pair, position (from 0) and whether it was clicked; of each choice
    (choices, 1 + alternatives) the pairs, the chosen one first."""

    offsets: Ints
    user: Ints
    item: Ints
    liking: Ints
    shown: Ints
    position: Ints
    clicked: Floats
    choices: Ints


@dataclass(frozen=True)
class _World:
    """``people`` and ``items``: their attributes, one row each. ``category``
    (items,): the place among ``categories``, one beyond the last where it is
    unknown."""

    people: sp.csr_matrix
    items: sp.csr_matrix
    category: Ints
    categories: int


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
    list), label (1: clicked). ``people``: user_id, country, device,
    referral_source, declared_preferences. ``items``: item_id, category, tags,
    published_at, is_active. An unknown item is left out.
    """
    events = _newest_first(events)
    people, items = _everyone(people, events), items.sort_by("item_id")
    user = positions(ids(people, "user_id"), ids(events, "user_id"))
    item = positions(ids(items, "item_id"), ids(events, "item_id"))
    position = numbers(events, "position", 0).astype(np.int64)
    known = item >= 0
    shown = np.flatnonzero(known & (position > 0))[: params.most_shown]
    found = np.flatnonzero(known & (position == 0))[: params.most_choices]
    if len(shown) == 0:
        return TASTES.empty_table()
    day = _days(events, "day")
    others = _alternatives(user[found], item[found], day[found], items, params)
    everyone, everything = len(people), len(items)
    pairs, of = np.unique(
        np.concatenate(
            [
                user[shown] * everything + item[shown],
                (user[found][:, None] * everything + others).ravel(),
            ]
        ),
        return_inverse=True,
    )
    category = positions(
        pa.array(categories, pa.string()), column(items, "category", pa.string())
    )
    category[category < 0] = len(categories)
    who, what = pairs // everything, pairs % everything
    evidence = _Evidence(
        offsets_of(who, everyone),
        who,
        what,
        who * (len(categories) + 1) + category[what],
        of[: len(shown)],
        np.minimum(position[shown], MOST_POSITIONS) - 1,
        (numbers(events, "label", 0)[shown] > 0).astype(np.float32),
        of[len(shown) :].reshape(others.shape),
    )
    world = _World(
        _attributes(
            everyone,
            {
                "": pa.array([""] * everyone),
                "country": people["country"],
                "device": people["device"],
                "referral": people["referral_source"],
                "declared": people["declared_preferences"],
            },
        ),
        _attributes(everything, {"category": items["category"], "tag": items["tags"]}),
        category,
        len(categories),
    )
    taste, liked, bias = _sums(world, _fitted(evidence, world, params))
    mean = taste.mean(axis=0, keepdims=True)
    # zero is what everybody thinks of the average item, and so of an unknown one
    width = params.factors
    likings = np.append(mean[0, width:], 0)[category]
    bias -= (liked @ mean[0, :width] + bias + likings).mean()
    return pa.concat_tables(
        [
            _table(EVERYBODY, pa.array([""]), mean),
            _table(USER, ids(people, "user_id"), taste),
            _table(ITEM, ids(items, "item_id"), np.column_stack([liked, bias])),
        ]
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
    order = [(name, "ascending") for name in ("user_id", "item_id", "position")]
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


# --- fitting -----------------------------------------------------------------


def _fitted(evidence: _Evidence, world: _World, params: TasteParams) -> Parameters:
    """The most probable tastes, by full gradients and Adam (Kingma and Ba, 2015)."""
    people, items = world.people.shape, world.items.shape
    likings = world.categories
    rng = np.random.default_rng(params.seed)
    shapes_and_penalties = {
        "user": ((people[0], params.factors), params.user_penalty),
        "user_by": ((people[1], params.factors), params.user_attribute_penalty),
        "liking": ((people[0], likings), params.liking_penalty),
        "liking_by": ((people[1], likings), params.user_attribute_penalty),
        "item": ((items[0], params.factors), params.item_penalty),
        "item_by": ((items[1], params.factors), params.attribute_penalty),
        "bias": ((items[0], 1), params.bias_penalty),
        "bias_by": ((items[1], 1), params.attribute_penalty),
        "position": ((MOST_POSITIONS, 1), params.position_penalty),
    }
    found = {name: np.zeros(shape) for name, (shape, _) in shapes_and_penalties.items()}
    # factors at zero would have no gradient
    for name in ("item_by", "item"):
        found[name] += rng.normal(0, 0.1, found[name].shape)
    found["position"] += -3.0
    mean = {name: np.zeros_like(value) for name, value in found.items()}
    square = {name: np.zeros_like(value) for name, value in found.items()}
    for step in range(1, params.steps + 1):
        gradient = _gradient(evidence, world, found)
        # smaller steps towards the end settle what the first ones overshot
        rate = params.learning_rate * (1.0 if step < 0.6 * params.steps else 0.3)
        for name, (_, penalty) in shapes_and_penalties.items():
            up = gradient[name] - penalty * found[name]
            mean[name] = 0.9 * mean[name] + 0.1 * up
            square[name] = 0.99 * square[name] + 0.01 * up**2
            scale = np.sqrt(square[name] / (1 - 0.99**step)) + 1e-8
            found[name] += rate * (mean[name] / (1 - 0.9**step)) / scale
    return found


def _sums(world: _World, found: Parameters) -> tuple[Doubles, Doubles, Doubles]:
    """Factors and likings of people, and factors and bias of items: what the
    attributes say and what is their own."""
    user = np.hstack([found["user"], found["liking"]])
    user += world.people @ np.hstack([found["user_by"], found["liking_by"]])
    item = found["item"] + world.items @ found["item_by"]
    bias = found["bias"] + world.items @ found["bias_by"]
    return user, item, bias[:, 0]


def _gradient(evidence: _Evidence, world: _World, found: Parameters) -> Parameters:
    """Of the log-likelihood: each pair's score in single precision, all sums in
    double."""
    user, item, bias = _sums(world, found)
    width = item.shape[1]
    score = _scores(user, item, bias, evidence)
    effect = found["position"][:, 0].astype(np.float32)
    margin = score.take(evidence.shown) + effect.take(evidence.position)
    of_shown = evidence.clicked - 1 / (1 + np.exp(-margin))
    chance = score.take(evidence.choices)
    chance -= chance.max(axis=1, keepdims=True, initial=-np.inf)
    np.exp(chance, out=chance)
    of_choices = -chance / chance.sum(axis=1, keepdims=True)
    of_choices[:, 0] += 1
    by_pair = np.bincount(evidence.shown, of_shown, len(score))
    by_pair += np.bincount(evidence.choices.ravel(), of_choices.ravel(), len(score))
    residual = sp.csr_matrix(
        (by_pair, evidence.item, evidence.offsets), shape=(len(user), len(item))
    )
    likings = len(user) * (world.categories + 1)
    to_liking = np.bincount(evidence.liking, by_pair, likings)
    to_liking = to_liking.reshape(len(user), -1)[:, :-1]
    to_user = residual @ item
    to_item = residual.T @ user[:, :width]
    to_bias = np.bincount(evidence.item, by_pair, len(item))[:, None]
    return {
        "user": to_user,
        "liking": to_liking,
        "user_by": world.people.T @ to_user,
        "liking_by": world.people.T @ to_liking,
        "item": to_item,
        "item_by": world.items.T @ to_item,
        "bias": to_bias,
        "bias_by": world.items.T @ to_bias,
        "position": np.bincount(evidence.position, of_shown, MOST_POSITIONS)[:, None],
    }


def _scores(user: Doubles, item: Doubles, bias: Doubles, evidence: _Evidence) -> Floats:
    """Of each pair: bias, factors times factors, and the liking for the category."""
    width = item.shape[1]
    likings = np.pad(user[:, width:], ((0, 0), (0, 1))).astype(np.float32)
    found: Floats = likings.ravel().take(evidence.liking)
    found += bias.astype(np.float32).take(evidence.item)
    for at in range(width):
        theirs = user[:, at].astype(np.float32).take(evidence.user)
        theirs *= item[:, at].astype(np.float32).take(evidence.item)
        found += theirs
    return found


def _table(kind: str, names: pa.Array, dense: Doubles) -> pa.Table:
    rows = vectors(dense.astype(np.float32))
    return pa.table([pa.array([kind] * len(names)), names, rows], schema=TASTES)
