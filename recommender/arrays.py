"""Between Arrow columns and NumPy arrays: ids, lists and sort keys."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feedloop.errors import ContractError

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Keys: TypeAlias = NDArray[np.uint64]
Bools: TypeAlias = NDArray[np.bool_]

VECTOR = pa.list_(pa.float32())
NOTHING = np.uint64(2**64 - 1)
"""Stands behind all keys of a row."""


def column(table: pa.Table | pa.RecordBatch, name: str, kind: pa.DataType) -> pa.Array:
    """The column ``name`` as one array of ``kind``, or ``ContractError``."""
    if name not in table.schema.names:
        raise ContractError(
            f"The column {name} is missing; the table has "
            f"{', '.join(table.schema.names)}."
        )
    found = flat(table.column(name))
    if found.type == kind:
        return found
    try:
        return found.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ContractError(
            f"The column {name} is {found.type} and can't be read as {kind}: {error}"
        ) from error


def flat(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """``values`` as one array."""
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def ids(table: pa.Table | pa.RecordBatch, name: str) -> pa.Array:
    """A string column without nulls."""
    found = column(table, name, pa.string())
    if found.null_count:
        raise ContractError(f"The column {name} has {found.null_count} nulls.")
    return found


def numbers(table: pa.Table | pa.RecordBatch, name: str, default: float) -> Doubles:
    """A numeric column as float64, null and not-a-number as ``default``."""
    found = pc.fill_null(column(table, name, pa.float64()), default)
    values: Doubles = found.to_numpy(zero_copy_only=False)
    return np.where(np.isnan(values), default, values)


def codes(values: pa.Array) -> tuple[Ints, pa.Array]:
    """Codes (int64, one a value) into the sorted distinct ``values``."""
    encoded = values.dictionary_encode()
    order = pc.array_sort_indices(encoded.dictionary)
    place = np.empty(len(order), np.int64)
    place[order.to_numpy()] = np.arange(len(order))
    found: Ints = place[encoded.indices.to_numpy(zero_copy_only=False)]
    return found, encoded.dictionary.take(order)


def positions(values: pa.Array, of: pa.Array) -> Ints:
    """Where each of ``of`` stands in the distinct ``values``; -1: nowhere."""
    found: Ints = pc.fill_null(pc.index_in(of, value_set=values), -1).to_numpy(
        zero_copy_only=False
    )
    return found.astype(np.int64)


def ragged(lists: pa.Array) -> tuple[Ints, pa.Array]:
    """Offsets (int64, one more than rows) and values; a null list is empty."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum(lengths.to_numpy(zero_copy_only=False), out=offsets[1:])
    return offsets, pc.list_flatten(lists)


def rows_of(offsets: Ints) -> Ints:
    """The row of each value of a ragged array."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def places_in(offsets: Ints) -> Ints:
    """The place within its row (from 0) of each value of a ragged array."""
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))


def offsets_of(sorted_rows: Ints, rows: int) -> Ints:
    """Offsets of a ragged array whose values' rows are ``sorted_rows``."""
    offsets = np.zeros(rows + 1, np.int64)
    np.cumsum(np.bincount(sorted_rows, minlength=rows), out=offsets[1:])
    return offsets


def whole(rows: Ints, count: int) -> Ints | slice:
    """``rows``, rising, or where they are all of ``count`` the slice that says so
    and copies nothing."""
    return slice(None) if len(rows) == count else rows


def padded_rows(keys: Keys, offsets: Ints) -> Keys:
    """(rows, longest row) of a ragged array, NOTHING behind the end of a row; not
    a copy where all are of one length."""
    rows, lengths = len(offsets) - 1, np.diff(offsets)
    widest = int(lengths.max(initial=0))
    if len(keys) == rows * widest:
        return keys.reshape(rows, widest)
    wide = np.full((rows, widest), NOTHING)
    wide[np.arange(widest) < lengths[:, None]] = keys
    return wide


def sorted_rows(keys: Keys, offsets: Ints) -> Keys:
    """A ragged array, without NOTHING, with each row sorted: many short rows take
    a fraction of the time of one long one."""
    wide = np.sort(padded_rows(keys, offsets), axis=1)
    return wide.ravel() if wide.size == len(keys) else wide[wide != NOTHING]


def matrix(lists: pa.Array, width: int | None = None) -> tuple[Floats, Bools]:
    """Vectors as float32 (rows, width), and which rows have one.

    A null or empty list is a row of zeros. Raises ``ContractError`` where the
    others have not all the same width (``width`` where it is given), or where
    a vector has a null or an infinite element.
    """
    offsets, values = ragged(lists)
    lengths = np.diff(offsets)
    present = lengths > 0
    found = np.unique(lengths[present])
    if width is None:
        width = int(found[0]) if len(found) else 0
    if len(found) > 1 or (len(found) == 1 and found[0] != width):
        raise ContractError(
            f"Vectors of {', '.join(map(str, found))} elements where {width} are "
            "expected; rebuild the embeddings."
        )
    flat = values.to_numpy(zero_copy_only=False).astype(np.float32)
    if not np.isfinite(flat).all():
        raise ContractError("A vector has a null or an infinite element.")
    dense = np.zeros((len(lists), width), np.float32)
    dense[present] = flat.reshape(int(present.sum()), width)
    return dense, present


def lists_of(offsets: Ints, values: pa.Array) -> pa.ListArray:
    """A list column from a ragged array."""
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def vectors(dense: Floats) -> pa.ListArray:
    """A list<float32> column with one row of ``dense`` each."""
    rows, width = dense.shape
    flat = pa.array(np.ascontiguousarray(dense, np.float32).ravel())
    return lists_of(np.arange(rows + 1) * width, flat)


def descending(values: Floats) -> Keys:
    """32-bit keys whose rising order is the falling order of ``values``."""
    # adding zero makes -0.0 the same as 0.0
    bits = (np.asarray(values, np.float32) + np.float32(0)).view(np.int32)
    # the bits of a float rise with it where it is positive and fall where not
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    bits ^= np.int32(0x7FFFFFFF)
    return bits.view(np.uint32).astype(np.uint64)


def distinct(keys: Keys) -> Keys:
    """The distinct ``keys``, sorted."""
    keys = np.sort(keys)
    first: Bools = np.ones(len(keys), np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return keys[first]


def contains(sorted_keys: Keys, keys: Keys) -> Bools:
    """Which of ``keys`` are among ``sorted_keys``."""
    if len(sorted_keys) == 0:
        return np.zeros(keys.shape, np.bool_)
    at = np.searchsorted(sorted_keys, keys)
    at[at == len(sorted_keys)] = 0
    found: Bools = sorted_keys[at] == keys
    return found
