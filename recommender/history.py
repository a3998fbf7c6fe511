"""A log of interactions in arrays, and what it says of items and people.

What SQL derives in the warehouse, for a log that is at hand as a table: the
same windows and the same names, so that the same kernel reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feedloop.contracts.seeds import EventType
from feedloop.errors import ContractError
from recommender.arrays import (
    Bools,
    Doubles,
    Ints,
    codes,
    column,
    flat,
    lists_of,
    offsets_of,
    places_in,
)

INSTANT = pa.timestamp("us", "UTC")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = 86_400_000_000
"""Microseconds; so are all instants here."""
UNKNOWN_WEIGHT, UNKNOWN_HALF_LIFE_DAYS = 1.0, 30.0
"""Of an event whose type isn't known, or isn't among the event types."""
SECONDS_BELOW, MILLISECONDS_BELOW = 10**11, 10**14
"""Whole numbers are taken as unix time, by their size in seconds (up to the
year 5138), milliseconds or microseconds."""


@dataclass(frozen=True)
class History:
    """Interactions by rising time, those of one instant in the log's order.

    ``user``, ``item``: codes into the sorted ``user_ids`` and ``item_ids``.
    ``at``: microseconds, all 0 where the log has no times (``timed`` false). Its
    rows then stand in a drawn order, the same however the log was sorted: many
    are by item, and the last of those are not what came last.
    """

    user_ids: pa.Array
    item_ids: pa.Array
    user: Ints
    item: Ints
    weight: Doubles
    half_life_days: Doubles
    at: Ints
    timed: bool

    def __len__(self) -> int:
        return len(self.user)

    def only(self, rows: Bools) -> History:
        """Those rows; codes keep their meaning."""
        return History(
            self.user_ids,
            self.item_ids,
            self.user[rows],
            self.item[rows],
            self.weight[rows],
            self.half_life_days[rows],
            self.at[rows],
            self.timed,
        )

    @property
    def as_of(self) -> datetime:
        """The first instant at which all of it is known."""
        newest = int(self.at[-1]) if len(self) and self.timed else 0
        return EPOCH + timedelta(microseconds=newest + 1)

    def ages_days(self, as_of: datetime) -> Doubles:
        """Of each interaction; 0 where there are no times."""
        if not self.timed:
            return np.zeros(len(self))
        ages: Doubles = (microseconds(as_of) - self.at) / DAY
        return ages

    def pairs(self) -> tuple[Ints, Ints]:
        """Distinct (user, item), each user's newest first: rows into this
        history (the pair's newest interaction) and the offsets of the users."""
        key = self.user * max(len(self.item_ids), 1) + self.item
        _, from_end = np.unique(key[::-1], return_index=True)
        rows = len(key) - 1 - from_end
        rows = rows[np.lexsort((-rows, self.user[rows]))]
        return rows, offsets_of(self.user[rows], len(self.user_ids))


def microseconds(instant: datetime) -> int:
    return (instant - EPOCH) // timedelta(microseconds=1)


def read_history(table: pa.Table, event_types: Mapping[str, EventType]) -> History:
    """``table``: user_id, item_id (any type that reads as a string), and where
    known occurred_at (instants, or unix time in whole s, ms or µs) and
    event_type.

    An event whose type is not an engagement or conversion is left out; types
    that ``event_types`` doesn't have count ``UNKNOWN_WEIGHT``. Raises
    ``ContractError`` for a missing column and for ids or times that are null.
    """
    user, user_ids = codes(_strings(table, "user_id"))
    item, item_ids = codes(_strings(table, "item_id"))
    timed = "occurred_at" in table.column_names
    at = instants(table, "occurred_at") if timed else np.zeros(len(user), np.int64)
    weight = np.full(len(user), UNKNOWN_WEIGHT)
    half_life = np.full(len(user), UNKNOWN_HALF_LIFE_DAYS)
    positive = np.ones(len(user), np.bool_)
    if "event_type" in table.column_names:
        kind, names = codes(pc.fill_null(_cast(table, "event_type"), ""))
        known = [event_types.get(name) for name in names.to_pylist()]
        weights = [UNKNOWN_WEIGHT if one is None else one.weight for one in known]
        half_lives = [
            UNKNOWN_HALF_LIFE_DAYS if one is None else one.half_life_days
            for one in known
        ]
        counts = [one is None or is_positive(one) for one in known]
        weight = np.array(weights, float)[kind]
        half_life = np.array(half_lives, float)[kind]
        positive = np.array(counts, np.bool_)[kind]
    order = np.argsort(at, kind="stable") if timed else _drawn(user, item)
    everything = History(
        user_ids,
        item_ids,
        user[order],
        item[order],
        weight[order],
        half_life[order],
        at[order],
        timed,
    )
    return everything.only(positive[order])


def _drawn(user: Ints, item: Ints) -> Ints:
    """A seeded order of the rows that says nothing, not even of theirs."""
    order = np.lexsort((item, user))
    return order[np.random.default_rng(0).permutation(len(order))]


def is_positive(kind: EventType) -> bool:
    return kind.role in ("engagement", "conversion")


def instants(table: pa.Table, name: str) -> Ints:
    """A column of instants or unix times in microseconds."""
    values = flat(table.column(name))
    if values.null_count:
        raise ContractError(f"The column {name} has {values.null_count} nulls.")
    if pa.types.is_timestamp(values.type):
        values = column(table, name, pa.timestamp("us", values.type.tz))
    whole: Ints = values.cast(pa.int64(), safe=False).to_numpy(zero_copy_only=False)
    if pa.types.is_timestamp(values.type) or len(whole) == 0:
        return whole
    size = int(np.abs(whole).max())
    scale = 1_000_000 if size < SECONDS_BELOW else 1
    return whole * (1_000 if SECONDS_BELOW <= size < MILLISECONDS_BELOW else scale)


def interactions(history: History, as_of: datetime) -> pa.Table:
    """user_id, item_id, confidence: weights decayed by their half-lives."""
    age = history.ages_days(as_of)
    confidence = history.weight * 0.5 ** (age / history.half_life_days)
    kept = confidence > 0
    return pa.table(
        {
            "user_id": history.user_ids.take(pa.array(history.user[kept])),
            "item_id": history.item_ids.take(pa.array(history.item[kept])),
            "confidence": confidence[kept],
        }
    )


def user_items(history: History) -> pa.Table:
    """user_id, item_id, recency_place: each pair once, from 1 for the newest."""
    rows, offsets = history.pairs()
    return pa.table(
        {
            "user_id": history.user_ids.take(pa.array(history.user[rows])),
            "item_id": history.item_ids.take(pa.array(history.item[rows])),
            "recency_place": places_in(offsets) + 1,
        }
    )


def item_values(
    history: History, as_of: datetime, items: int, trend_half_life_hours: float
) -> dict[str, Doubles]:
    """Ranked item features by name, one value an item code."""
    age = history.ages_days(as_of)
    decay = 0.5 ** (age * 24 / trend_half_life_hours)
    weight = history.weight
    values = {
        f"item_popularity_{days}d": _total(history, weight * (age < days), items)
        for days in (1, 7, 30)
    }
    values["item_trending"] = _total(history, weight * decay, items)
    for name, hours in {"item_trending_1h": 1, "item_trending_10m": 1 / 6}.items():
        faster = 0.5 ** (age * 24 / hours)
        values[name] = _total(history, weight * faster, items)
    return values


def _total(history: History, values: Doubles, items: int) -> Doubles:
    """The sum of the interactions' ``values`` for each item code."""
    return np.bincount(history.item, values, items).astype(np.float64)


def first_seen(history: History, items: int) -> Ints:
    """When each item was first interacted with; the log's end: never."""
    end = int(history.at[-1]) if len(history) else 0
    found = np.full(items, end)
    np.minimum.at(found, history.item, history.at)
    return found


def user_values(
    history: History, as_of: datetime, sure_from_items: int
) -> dict[str, Doubles]:
    """Ranked user features by name, one value a user code."""
    age, users = history.ages_days(as_of), len(history.user_ids)
    recent = age < 30
    day = history.at[recent] // DAY
    _, first = np.unique(
        np.stack([history.user[recent], day]), axis=1, return_index=True
    )
    days = np.bincount(history.user[recent][first], minlength=users)
    _, offsets = history.pairs()
    return {
        "user_is_little_known": (np.diff(offsets) < sure_from_items).astype(float),
        "user_events_7d": np.bincount(history.user, age < 7, users).astype(float),
        "user_active_days_30d": days.astype(float),
    }


def affinities(
    history: History, as_of: datetime, category: Ints, categories: int
) -> Doubles:
    """(users, categories): weighted share of each category in the last 30
    days' interactions. ``category``: of each item code, -1 for none."""
    users = len(history.user_ids)
    theirs = category[history.item]
    recent = (history.ages_days(as_of) < 30) & (theirs >= 0)
    total = np.bincount(
        history.user[recent] * categories + theirs[recent],
        history.weight[recent],
        users * categories,
    ).reshape(users, categories)
    share: Doubles = total / np.maximum(total.sum(axis=1, keepdims=True), 1e-12)
    return share


def item_lists(history: History, most: int) -> pa.ListArray:
    """For each user the distinct items, newest first, at most ``most``."""
    rows, offsets = history.pairs()
    kept = places_in(offsets) < most
    rows = rows[kept]
    offsets = offsets_of(history.user[rows], len(history.user_ids))
    return lists_of(offsets, history.item_ids.take(pa.array(history.item[rows])))


def _cast(table: pa.Table, name: str) -> pa.Array:
    return column(table, name, pa.string())


def _strings(table: pa.Table, name: str) -> pa.Array:
    found = _cast(table, name)
    if found.null_count:
        raise ContractError(f"The column {name} has {found.null_count} nulls.")
    return found
