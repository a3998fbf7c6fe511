"""A batch of users, checked and in arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from feedloop.contracts.kernel import USER_COLUMNS
from feedloop.errors import ContractError
from recommender.arrays import (
    VECTOR,
    Bools,
    Floats,
    Ints,
    column,
    ids,
    matrix,
    numbers,
    ragged,
)
from recommender.build import Build, quantised

STRINGS = pa.list_(pa.string())


@dataclass(frozen=True)
class Users:
    """``vectors`` (users, factors): unit vectors times ``build.UNIT`` as
    float32; a row of zeros where ``has_vector`` is false. ``features`` (users,
    ranked user features). ``affinity`` (users, categories). ``taste`` (users,
    taste factors + categories), everybody's mean where there is none. ``recent`` and
    ``consumed``: offsets and ordinals; unknown items are left out."""

    ids: pa.Array
    vectors: Floats
    has_vector: Bools
    features: Floats
    affinity: Floats
    taste: Floats
    recent_offsets: Ints
    recent: Ints
    consumed_offsets: Ints
    consumed: Ints

    def __len__(self) -> int:
        return len(self.ids)

    def unsure(self, least: int) -> Bools:
        """Of whom too little is known: no vector, or fewer than ``least``
        recent items."""
        few = np.diff(self.recent_offsets) < least
        return np.asarray(few | ~self.has_vector)

    def part(self, start: int, stop: int) -> Users:
        """The users from ``start`` to before ``stop``."""
        stop = min(stop, len(self))
        recent = self.recent_offsets[start : stop + 1]
        consumed = self.consumed_offsets[start : stop + 1]
        return Users(
            ids=self.ids.slice(start, stop - start),
            vectors=self.vectors[start:stop],
            has_vector=self.has_vector[start:stop],
            features=self.features[start:stop],
            affinity=self.affinity[start:stop],
            taste=self.taste[start:stop],
            recent_offsets=recent - recent[0],
            recent=self.recent[recent[0] : recent[-1]],
            consumed_offsets=consumed - consumed[0],
            consumed=self.consumed[consumed[0] : consumed[-1]],
        )


def read_users(batch: pa.RecordBatch | pa.Table, build: Build) -> Users:
    """``batch`` (USER_COLUMNS and the ranked user features) for ``build``.

    Missing values become the registry's defaults. An affinity that is shorter
    than the build's categories is filled with zeros, a longer one cut.
    Raises ``ContractError`` for a missing column, a repeated user or a vector
    of another length.
    """
    user_ids = ids(batch, "user_id")
    if len(user_ids.unique()) != len(user_ids):
        raise ContractError("A user_id stands twice in one batch of users.")
    vectors = _vectors(batch, build.item_vectors.shape[1])
    defaults = build.spec.user_features
    features = np.empty((len(user_ids), len(defaults)), np.float32)
    for at, (name, default) in enumerate(defaults.items()):
        features[:, at] = numbers(batch, name, default)
    recent_offsets, recent = _items(batch, "recent_items", build)
    consumed_offsets, consumed = _items(batch, "consumed_items", build)
    return Users(
        ids=user_ids,
        vectors=vectors,
        has_vector=np.asarray(vectors.any(axis=1)),
        features=features,
        affinity=_affinity(batch, len(build.categories)),
        taste=_tastes(batch, build),
        recent_offsets=recent_offsets,
        recent=recent,
        consumed_offsets=consumed_offsets,
        consumed=consumed,
    )


def unknown_user(user_id: str, build: Build) -> pa.RecordBatch:
    """A batch of one user of whom nothing is known."""
    row: dict[str, object] = dict.fromkeys(USER_COLUMNS.names)
    row["user_id"] = user_id
    schema = USER_COLUMNS
    for name, default in build.spec.user_features.items():
        schema = schema.append(pa.field(name, pa.float64()))
        row[name] = default
    return pa.RecordBatch.from_pylist([row], schema=schema)


def _vectors(batch: pa.RecordBatch | pa.Table, factors: int) -> Floats:
    if factors == 0:  # no item has a vector, so there is nothing to be near to
        return np.zeros((len(batch), 0), np.float32)
    dense, _ = matrix(column(batch, "vector", VECTOR), factors)
    return quantised(dense).astype(np.float32)


def _tastes(batch: pa.RecordBatch | pa.Table, build: Build) -> Floats:
    mean = build.mean_taste
    if len(mean) == 0:  # nobody was shown anything yet
        return np.zeros((len(batch), 0), np.float32)
    dense, present = matrix(column(batch, "taste", VECTOR), len(mean))
    return np.where(present[:, None], dense, mean)


def _items(
    batch: pa.RecordBatch | pa.Table, name: str, build: Build
) -> tuple[Ints, Ints]:
    offsets, values = ragged(column(batch, name, STRINGS))
    ordinals = build.ordinals(values)
    known = ordinals >= 0
    kept = np.concatenate([[0], np.cumsum(known)])
    return kept[offsets], ordinals[known]


def _affinity(batch: pa.RecordBatch | pa.Table, categories: int) -> Floats:
    offsets, values = ragged(column(batch, "user_category_affinity", VECTOR))
    flat = values.to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    place = np.arange(len(flat)) - offsets[:-1][rows]
    kept = (place < categories) & np.isfinite(flat)
    dense = np.zeros((len(offsets) - 1, categories), np.float32)
    dense[rows[kept], place[kept]] = flat[kept]
    return dense
