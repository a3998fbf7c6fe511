"""Implicit-feedback embeddings: trained, folded in, and mapped for cold items.

ALS: Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback
Datasets" (2008), by the CPU solver of the library implicit.
"""

from __future__ import annotations

import zlib

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from feedloop.errors import ContractError
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
    ragged,
    rows_of,
    vectors,
)

ITEM_VECTORS = pa.schema([("item_id", pa.string()), ("vector", VECTOR)])
USER_VECTORS = pa.schema([("user_id", pa.string()), ("vector", VECTOR)])

USERS_AT_A_TIME = 50_000
MOST_CATEGORIES = 1000
MOST_TAGS = 1000
WORD_BUCKETS = 256
WORD_WEIGHT = 0.25
RIDGE = 5.0
CATEGORY_PRIOR = 2.0
DETAIL_PRIOR = 0.5


class AlsParams(msgspec.Struct, frozen=True, kw_only=True):
    """``num_threads`` (0: all) changes the time, never the result: each row is
    solved by one thread, and the shared Gram matrix by a single-threaded BLAS."""

    factors: int = 64
    regularization: float = 10.0
    iterations: int = 15
    alpha: float = 5.0
    seed: int = 0
    num_threads: int = 0


def train_item_factors(interactions: pa.Table, params: AlsParams) -> pa.Table:
    """Item factors (ITEM_VECTORS, sorted by item_id).

    ``interactions``: user_id, item_id, confidence (> 0, already weighted and
    decayed); several rows of one pair are added up, and the order of the rows
    doesn't matter. No interactions: an empty table.
    """
    users, items, confidence, _, item_ids = _interactions(interactions)
    if len(items) == 0:
        return ITEM_VECTORS.empty_table()
    user_items = sp.csr_matrix((confidence, (users, items)), dtype=np.float32)
    model = _model(params)
    with threadpool_limits(1, user_api="blas"):
        model.fit(user_items, show_progress=False)
    return pa.table(
        [item_ids, vectors(model.item_factors)],
        schema=ITEM_VECTORS,
    )


def fold_in_users(
    interactions: pa.Table,
    item_factors: pa.Table,
    params: AlsParams,
    mapped: pa.Table | None = None,
) -> pa.Table:
    """User vectors (USER_VECTORS, sorted by user_id) from fixed item factors.

    The exact ALS half step, so that a vector depends on the user's own rows
    only. ``mapped``: vectors of cold items. Whoever has touched one is folded
    in from it like from any other; but that nobody else has says nothing about
    tastes, so the Gram matrix, which stands for all that a user did not touch,
    is the trained items' alone, however many are new. Users none of whose items
    has a vector are left out.
    """
    users, items, confidence, user_ids, item_ids = _interactions(interactions)
    mapped = ITEM_VECTORS.empty_table() if mapped is None else mapped
    trained, _ = matrix(column(item_factors, "vector", VECTOR))
    cold, _ = matrix(column(mapped, "vector", VECTOR), trained.shape[1])
    factors = np.concatenate([trained, cold])
    every = pa.concat_arrays([ids(item_factors, "item_id"), ids(mapped, "item_id")])
    row_of_item = positions(every, item_ids)
    factored = row_of_item[items] >= 0
    users, confidence = users[factored], confidence[factored]
    items = row_of_item[items][factored]
    known, users = np.unique(users, return_inverse=True)
    if len(known) == 0:
        return USER_VECTORS.empty_table()
    user_items = sp.csr_matrix(
        (confidence, (users, items)),
        shape=(len(known), len(factors)),
        dtype=np.float32,
    )
    model = _model(params, factors=factors.shape[1])
    model.item_factors = factors
    with threadpool_limits(1, user_api="blas"):
        # implicit's own would be of all items that it is given
        model._YtY = trained.T @ trained
    folded = np.empty((len(known), factors.shape[1]), np.float32)
    with threadpool_limits(1, user_api="blas"):
        for start in range(0, len(known), USERS_AT_A_TIME):
            part = user_items[start : start + USERS_AT_A_TIME]
            folded[start : start + part.shape[0]] = model.recalculate_user(
                np.arange(part.shape[0]), part
            )
    placed = np.flatnonzero(folded.any(axis=1))
    return pa.table(
        [user_ids.take(pa.array(known[placed])), vectors(folded[placed])],
        schema=USER_VECTORS,
    )


def map_cold_items(items: pa.Table, item_factors: pa.Table) -> pa.Table:
    """Vectors (ITEM_VECTORS, sorted by item_id) for the items without factors.

    ``items``: item_id, category, tags (list, may be null), title (may be null).
    A ridge regression from category, tags and hashed title words onto the
    directions of the items that have factors, blended with the category's mean
    direction by how many of the item's details the regression has seen. The
    length is the mean length of the factors: an inner product then ranks a new
    item by taste, as if it were as popular as others. Where nothing is known,
    not even an item of the category, the vector is zero: such an item can't be
    retrieved by taste.
    """
    items = items.sort_by("item_id")
    item_ids = ids(items, "item_id")
    factors, _ = matrix(column(item_factors, "vector", VECTOR))
    factor_row = positions(ids(item_factors, "item_id"), item_ids)
    warm, cold = np.flatnonzero(factor_row >= 0), np.flatnonzero(factor_row < 0)
    if len(cold) == 0:
        return ITEM_VECTORS.empty_table()
    targets, lengths = _directions(factors[factor_row[warm]].astype(np.float64))
    mean, regressed, detail = _category_and_ridge(items, targets, warm, cold)
    share = (detail / (detail + DETAIL_PRIOR))[:, None]
    mapped, _ = _directions(share * regressed + (1 - share) * mean)
    if len(warm):
        mapped *= lengths.mean()
    return pa.table(
        [item_ids.take(pa.array(cold)), vectors(mapped.astype(np.float32))],
        schema=ITEM_VECTORS,
    )


def _directions(dense: Doubles) -> tuple[Doubles, Doubles]:
    """Rows of length 1, zero where they were zero, and their lengths."""
    lengths = np.sqrt((dense**2).sum(axis=1))
    return dense / np.where(lengths > 0, lengths, 1)[:, None], lengths


def _category_and_ridge(
    items: pa.Table, targets: Doubles, warm: Ints, cold: Ints
) -> tuple[Doubles, Doubles, Doubles]:
    """For each cold item: its category's shrunk mean, the regression's answer,
    and how many of its tags and words warm items have too."""
    category, names = codes(pc.fill_null(column(items, "category", pa.string()), ""))
    one_hot = _indicator(
        np.arange(len(category)), category, (len(category), len(names))
    )
    count = np.asarray(one_hot[warm].sum(axis=0)).ravel()
    total = one_hot[warm].T @ targets
    mean = (total / (count + CATEGORY_PRIOR)[:, None])[category[cold]]

    details = sp.hstack([_tags(items, warm), _words(items)], format="csr")
    seen = np.asarray(details[warm].sum(axis=0)).ravel() > 0
    details = details[:, np.flatnonzero(seen)]
    frequent = _most_frequent(one_hot, warm, MOST_CATEGORIES)
    design = sp.hstack([frequent, details], format="csr")
    known = design[warm]
    gram = (known.T @ known).toarray() + RIDGE * np.eye(design.shape[1])
    with threadpool_limits(1, user_api="blas"):
        weights = np.linalg.solve(gram, known.T @ targets)
    regressed = design[cold] @ weights
    detail = np.asarray((details[cold] > 0).sum(axis=1), np.float64).ravel()
    return mean, regressed, detail


def _tags(items: pa.Table, warm: Ints) -> sp.csr_matrix:
    """Which item has which of the tags most frequent among warm items."""
    offsets, values = ragged(column(items, "tags", pa.list_(pa.string())))
    tag, names = codes(pc.fill_null(values, ""))
    every = _indicator(rows_of(offsets), tag, (len(items), len(names)))
    return _most_frequent(every, warm, MOST_TAGS)


def _words(items: pa.Table) -> sp.csr_matrix:
    """Title words of three letters or more, hashed into buckets."""
    title = pc.utf8_lower(pc.fill_null(column(items, "title", pa.string()), ""))
    offsets, values = ragged(pc.split_pattern_regex(title, r"[^\pL\pN]+"))
    word, names = codes(values)
    bucket = np.array(
        [zlib.crc32(name.encode()) % WORD_BUCKETS for name in names.to_pylist()],
        np.int64,
    )
    long = pc.greater_equal(pc.utf8_length(names), 3).to_numpy(zero_copy_only=False)
    kept = long[word]
    return WORD_WEIGHT * _indicator(
        rows_of(offsets)[kept], bucket[word[kept]], (len(items), WORD_BUCKETS)
    )


def _most_frequent(indicator: sp.csr_matrix, warm: Ints, most: int) -> sp.csr_matrix:
    """The ``most`` columns that most warm items have, so that the regression's
    size is bounded whatever the catalogue."""
    frequency = np.asarray(indicator[warm].sum(axis=0)).ravel()
    return indicator[:, np.sort(np.argsort(-frequency, kind="stable")[:most])]


def _indicator(rows: Ints, columns: Ints, shape: tuple[int, int]) -> sp.csr_matrix:
    found = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)
    found.data[:] = 1.0
    return found


def _model(params: AlsParams, factors: int | None = None) -> AlternatingLeastSquares:
    with threadpool_limits(1, user_api="blas"):
        return AlternatingLeastSquares(
            factors=params.factors if factors is None else factors,
            regularization=params.regularization,
            alpha=params.alpha,
            iterations=params.iterations,
            num_threads=params.num_threads,
            random_state=params.seed,
            dtype=np.float32,
        )


def _interactions(
    table: pa.Table,
) -> tuple[Ints, Ints, Floats, pa.Array, pa.Array]:
    """Distinct pairs as codes, their confidence, and the sorted ids."""
    user, user_ids = codes(ids(table, "user_id"))
    item, item_ids = codes(ids(table, "item_id"))
    confidence = numbers(table, "confidence", np.nan)
    if not (np.isfinite(confidence) & (confidence > 0)).all():
        raise ContractError(
            "A confidence is null, infinite or not above zero; weigh and decay "
            "interactions before training."
        )
    if len(user) == 0:
        return user, item, confidence.astype(np.float32), user_ids, item_ids
    # the sum of floats depends on their order, so the order is fixed
    pair = user * len(item_ids) + item
    del user, item
    order = np.argsort(pair, kind="stable")
    if (np.diff(pair[order]) == 0).any():
        order = np.lexsort((confidence, pair))
    pair, confidence = pair[order], confidence[order]
    del order
    first = np.flatnonzero(np.diff(pair, prepend=-1))
    summed = np.add.reduceat(confidence, first).astype(np.float32)
    user, item = np.divmod(pair[first], len(item_ids))
    return user, item, summed, user_ids, item_ids
