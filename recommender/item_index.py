"""The index of item vectors: built once, then kept up from night to night.

Between two trainings the vectors hardly change and the catalogue a little. So a
build takes over the index of the one before, takes out what is gone or has moved
and adds what is new, and builds another only where that would be much of it. Its
keys are numbers that an item keeps, not ordinals, which change every night; a
build stores the ordinal of each key.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from usearch.index import Index

from recommender.arrays import Bools, Floats, Ints, positions
from recommender.params import KernelParams

GONE = -1
"""The ordinal of a key that stands for no item any more."""
MOST_ANEW = 0.2
"""Of what is to be found: where more is new or has moved, all is built anew."""
TOLERANCE = 0.05
"""How far a vector may move, over its length, and keep its place: the index only
finds items, their scores are computed from what the build stores."""


def open_index(path: Path, params: KernelParams, *, view: bool = True) -> Index:
    """The index saved at ``path``; mapped and not to be changed, or (``view``
    False) in memory and ready for changes."""
    return Index(
        path=path,
        view=view,
        enable_key_lookups=not view,
        # a file says how its graph was laid out, not how it is to be searched
        expansion_add=params.index_expansion_add,
        expansion_search=params.index_expansion_search,
    )


def build_index(vectors: Floats, params: KernelParams) -> Index:
    """Of inner products, built in order on one thread, so that it repeats; the
    keys are the rows.

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
    )
    index.add(np.arange(len(vectors)), vectors, threads=1)
    return index


def update_index(
    index: Index, held: Ints, vectors: Floats, wanted: Ints, params: KernelParams
) -> tuple[Ints, int] | None:
    """Change ``index``, so that it finds the ``wanted`` ordinals among ``vectors``.

    ``held``: of each key the ordinal that its item has now, GONE where it has
    none. Gives the ordinal of each key from now on and how many were added; None,
    and leaves the index as it is, where it had better be built anew.
    """
    keys = np.flatnonzero(held != GONE)
    asked: Bools = np.zeros(len(vectors), np.bool_)
    asked[wanted] = True
    keys = keys[asked[held[keys]]]
    alike = (index.ndim, index.connectivity) == (
        vectors.shape[1],
        params.index_connectivity,
    )
    if len(keys) == 0 or not alike:
        return None
    then = np.array(index.get(keys, "f32"))
    now = vectors[held[keys]]
    moved = np.linalg.norm(then - now, axis=1) > TOLERANCE * np.linalg.norm(now, axis=1)
    keys = keys[~moved]
    fresh = np.setdiff1d(wanted, held[keys])
    if len(fresh) > MOST_ANEW * len(wanted) or len(keys) < len(held) / 2:
        return None
    ordinals = np.full(len(held) + len(fresh), GONE)
    ordinals[keys] = held[keys]
    live = np.flatnonzero(index.contains(np.arange(len(held))))
    index.remove(np.setdiff1d(live, keys))
    added = len(held) + np.arange(len(fresh))
    index.add(added, vectors[fresh], threads=1)
    ordinals[added] = fresh
    return ordinals, len(fresh)


def ordinals_now(then: pa.Array, ordinals: Ints, now: pa.Array) -> Ints:
    """Of each key the ordinal among the item ids ``now``, where ``ordinals`` are
    those among the item ids ``then``; GONE where the item is gone."""
    known = np.flatnonzero(ordinals != GONE)
    found = np.full(len(ordinals), GONE)
    found[known] = positions(now, then.take(pa.array(ordinals[known])))
    return found
