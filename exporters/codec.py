"""What stands in a value: lists, the item dictionary and features, packed.

All numbers are little-endian; KEYSPACE.md states every byte. Encoding works on
a batch of columns at once, decoding on one value. A value that can't be of
this layout raises ``StoreError``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b

import msgspec
import numpy as np
import numpy.typing as npt

from exporters.keyspace import CHUNK_ITEMS, EntityType
from feedloop.errors import ContractError, StoreError

VERSION = 1
"""First byte of every packed value."""

MAX_ITEMS = 65_535
F16_MAX = float(np.finfo(np.float16).max)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Int64s = npt.NDArray[np.int64]
UInt32s = npt.NDArray[np.uint32]
Float32s = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


def microseconds(at: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (at - EPOCH) // _MICROSECOND


def instant(us: int) -> datetime:
    return EPOCH + us * _MICROSECOND


# --- lists -------------------------------------------------------------------

REC_ID_PREFIX = "rec_"
DIGEST_BYTES = 12
LIST_HEADER = np.dtype(
    [
        ("version", "u1"),
        ("reserved", "u1"),
        ("count", "<u2"),
        ("digest", "u1", (DIGEST_BYTES,)),
        ("generated_at", "<i8"),
        ("expires_at", "<i8"),
    ]
)
_list_header = struct.Struct(f"<BxH{DIGEST_BYTES}sqq")


class StoredList(msgspec.Struct, frozen=True):
    """One list as it stands in Redis; the instants are microseconds since
    1970, ``ordinals`` and ``scores`` parallel, index 0 highest."""

    rec_id: str
    generated_at: int
    expires_at: int
    ordinals: tuple[int, ...]
    scores: tuple[float, ...]


def rec_digests(rec_ids: Bytes) -> Bytes:
    """The 12 bytes in each ``rec_`` + 24 hexadecimal digits.

    ``rec_ids`` is (n, 28), the characters. Raises ``ContractError`` where one
    is of another form.
    """
    prefix = np.frombuffer(REC_ID_PREFIX.encode(), np.uint8)
    digits = _HEX[rec_ids[:, len(prefix) :]]
    if not (rec_ids[:, : len(prefix)] == prefix).all() or (digits > 15).any():
        raise ContractError("A rec_id is not rec_ and 24 hexadecimal digits.")
    return (digits[:, ::2] << 4 | digits[:, 1::2]).astype(np.uint8)


_HEX = np.full(256, 255, np.uint8)
_HEX[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


def encode_lists(
    digests: Bytes,
    generated_at: Int64s,
    expires_at: int,
    counts: Int64s,
    ordinals: UInt32s,
    scores: Float32s,
) -> list[bytes]:
    """One value a list.

    ``digests`` is (n, 12), ``generated_at`` (microseconds) and ``counts`` (n,),
    ``expires_at`` the same for all; ``ordinals`` and ``scores`` hold all lists
    one after the other. Scores are rounded to half precision, which keeps their order;
    beyond its range they are cut to its ends.
    """
    values: list[bytes] = [b""] * len(counts)
    starts = np.cumsum(counts) - counts
    halves = np.clip(scores, -F16_MAX, F16_MAX).astype("<f2")
    for count in np.unique(counts).tolist():
        rows = np.flatnonzero(counts == count)
        header = np.zeros(len(rows), LIST_HEADER)
        header["version"] = VERSION
        header["count"] = count
        header["digest"] = digests[rows]
        header["generated_at"] = generated_at[rows]
        header["expires_at"] = expires_at
        elements = starts[rows, None] + np.arange(count)
        packed = np.concatenate(
            [
                _as_bytes(header[:, None]),
                _as_bytes(ordinals[elements].astype("<u4")),
                _as_bytes(halves[elements]),
            ],
            axis=1,
        )
        _scatter(packed, rows, values)
    return values


def decode_list(value: bytes) -> StoredList:
    """The list in ``value``."""
    try:
        version, count, digest, generated_at, expires_at = _list_header.unpack_from(
            value
        )
        if version != VERSION or len(value) != _list_header.size + 6 * count:
            raise _unreadable("list")
        numbers = _elements(count).unpack_from(value, _list_header.size)
    except struct.error as error:
        raise _unreadable("list") from error
    return StoredList(
        REC_ID_PREFIX + digest.hex(),
        generated_at,
        expires_at,
        numbers[:count],
        numbers[count:],
    )


@lru_cache
def _elements(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}I{count}e")


# --- the item dictionary -----------------------------------------------------

_chunk_header = struct.Struct("<B3xI")


def encode_items(item_ids: Sequence[bytes]) -> bytes:
    """One chunk of the dictionary: at most ``CHUNK_ITEMS`` ids, in order."""
    ends = np.zeros(len(item_ids) + 1, "<u4")
    np.cumsum([len(item_id) for item_id in item_ids], out=ends[1:])
    return b"".join(
        (_chunk_header.pack(VERSION, len(item_ids)), ends.tobytes(), *item_ids)
    )


class ItemDictionary:
    """Item ids by ordinal, kept packed: ten million stay out of Python's heap."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        self._chunks: list[tuple[memoryview, bytes]] = []
        self._size = 0
        for chunk in chunks:
            try:
                version, count = _chunk_header.unpack_from(chunk)
            except struct.error as error:
                raise _unreadable("item dictionary") from error
            ids = _chunk_header.size + 4 * (count + 1)
            if version != VERSION or len(chunk) < ids:
                raise _unreadable("item dictionary")
            ends = np.frombuffer(chunk, "<u4", count + 1, _chunk_header.size)
            if len(chunk) != ids + ends[-1]:
                raise _unreadable("item dictionary")
            self._chunks.append((ends.astype("=u4").data, chunk[ids:]))
            self._size += count

    def __len__(self) -> int:
        return self._size

    def ids(self, ordinals: Sequence[int]) -> list[str]:
        """The items of ``ordinals``. Raises ``StoreError`` for one that isn't
        there."""
        found = []
        try:
            for ordinal in ordinals:
                ends, ids = self._chunks[ordinal // CHUNK_ITEMS]
                place = ordinal % CHUNK_ITEMS
                found.append(ids[ends[place] : ends[place + 1]].decode())
        except IndexError as error:
            raise _unreadable("list") from error
        return found


# --- features ----------------------------------------------------------------

LAYOUT_ID_BYTES = 4
FEATURE_HEADER = np.dtype(
    [
        ("version", "u1"),
        ("reserved", "u1"),
        ("count", "<u2"),
        ("layout_id", "u1", (LAYOUT_ID_BYTES,)),
        ("as_of", "<i8"),
        ("available_at", "<i8"),
    ]
)
_feature_header = struct.Struct(f"<BxH{LAYOUT_ID_BYTES}sqq")


class PackedFeature(msgspec.Struct, frozen=True):
    """One feature's place in a value: ``length`` floats after those before it.

    ``scalar`` says that it is one number and not a vector of one.
    """

    name: str
    length: int
    scalar: bool
    default: float
    ttl_seconds: int


class FeatureLayout(msgspec.Struct, frozen=True):
    """Which floats of a value are which feature, in the registry's order."""

    entity_type: EntityType
    features: list[PackedFeature]

    @property
    def count(self) -> int:
        return sum(feature.length for feature in self.features)

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @property
    def layout_id(self) -> str:
        """Eight hexadecimal digits that every value of this layout carries."""
        return blake2b(self.encode(), digest_size=LAYOUT_ID_BYTES).hexdigest()

    @classmethod
    def decode(cls, text: bytes) -> FeatureLayout:
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise _unreadable("feature layout") from error


def encode_features(
    layout: FeatureLayout, as_of: Int64s, available_at: int, values: Float32s
) -> list[bytes]:
    """One value an entity. ``as_of`` is (n,) and ``available_at`` one instant,
    in microseconds; ``values`` is (n, layout.count)."""
    header = np.zeros(len(as_of), FEATURE_HEADER)
    header["version"] = VERSION
    header["count"] = layout.count
    header["layout_id"] = np.frombuffer(bytes.fromhex(layout.layout_id), np.uint8)
    header["as_of"] = as_of
    header["available_at"] = available_at
    packed = np.concatenate(
        [
            _as_bytes(header[:, None]),
            _as_bytes(values.astype("<f4")),
        ],
        axis=1,
    )
    encoded: list[bytes] = [b""] * len(as_of)
    _scatter(packed, np.arange(len(as_of)), encoded)
    return encoded


@dataclass(frozen=True)
class StoredFeatures:
    """One entity's features as they stand in Redis, instants in microseconds."""

    layout_id: str
    as_of: int
    available_at: int
    values: tuple[float, ...]

    def by_name(
        self, layout: FeatureLayout, now: int
    ) -> dict[str, float | list[float]]:
        """The features' values at ``now``: one that has outlived its TTL gives
        way to its default, as if it had never been computed."""
        found: dict[str, float | list[float]] = {}
        start = 0
        for feature in layout.features:
            values = list(self.values[start : start + feature.length])
            start += feature.length
            ttl = feature.ttl_seconds * 1_000_000
            if ttl and now > self.available_at + ttl:
                values = [feature.default] * feature.length
            found[feature.name] = values[0] if feature.scalar else values
        return found


def decode_features(value: bytes) -> StoredFeatures:
    """The features in ``value``; ``layout_id`` says which layout names them."""
    try:
        version, count, layout_id, as_of, available_at = _feature_header.unpack_from(
            value
        )
    except struct.error as error:
        raise _unreadable("feature value") from error
    if version != VERSION or len(value) != _feature_header.size + 4 * count:
        raise _unreadable("feature value")
    values = struct.unpack_from(f"<{count}f", value, _feature_header.size)
    return StoredFeatures(layout_id.hex(), as_of, available_at, values)


# --- shared ------------------------------------------------------------------


def _as_bytes(matrix: npt.NDArray[np.generic]) -> Bytes:
    rows, columns = matrix.shape
    flat = np.frombuffer(matrix.tobytes(), np.uint8)
    return flat.reshape(rows, columns * matrix.itemsize)


def _scatter(packed: Bytes, rows: Int64s, values: list[bytes]) -> None:
    """Put the rows of ``packed`` where ``rows`` says in ``values``."""
    width = packed.shape[1]
    whole = packed.tobytes()
    for position, row in enumerate(rows.tolist()):
        values[row] = whole[position * width : (position + 1) * width]


def _unreadable(what: str) -> StoreError:
    return StoreError(
        f"The online store holds a {what} that this version can't read; run "
        "`feedloop export` again."
    )
