from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters import codec
from exporters.codec import (
    F16_MAX,
    FeatureLayout,
    ItemDictionary,
    PackedFeature,
    decode_features,
    decode_list,
    encode_features,
    encode_items,
    encode_lists,
    rec_digests,
)
from exporters.keyspace import CHUNK_ITEMS
from feedloop.contracts.lists import rec_id
from feedloop.errors import ContractError, StoreError

INSTANTS = st.integers(-(2**62), 2**62)
ITEM_LISTS = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.floats(-F16_MAX, F16_MAX, width=16)),
    max_size=12,
)


def encode(
    lists: list[tuple[bytes, int, list[tuple[int, float]]]], expires_at: int
) -> list[bytes]:
    flat = [element for _, _, elements in lists for element in elements]
    digests = b"".join(digest for digest, _, _ in lists)
    return encode_lists(
        np.frombuffer(digests, np.uint8).reshape(-1, codec.DIGEST_BYTES),
        np.array([at for _, at, _ in lists], np.int64),
        expires_at,
        np.array([len(elements) for _, _, elements in lists], np.int64),
        np.array([ordinal for ordinal, _ in flat], np.uint32),
        np.array([score for _, score in flat], np.float32),
    )


@given(
    st.lists(st.tuples(st.binary(min_size=12, max_size=12), INSTANTS, ITEM_LISTS)),
    INSTANTS,
)
def test_lists_come_back_exactly(
    lists: list[tuple[bytes, int, list[tuple[int, float]]]], expires_at: int
) -> None:
    values = encode(lists, expires_at)
    assert len(values) == len(lists)
    for value, (digest, generated_at, elements) in zip(values, lists, strict=True):
        assert len(value) == 32 + 6 * len(elements)
        stored = decode_list(value)
        assert stored.rec_id == f"rec_{digest.hex()}"
        assert (stored.generated_at, stored.expires_at) == (generated_at, expires_at)
        assert list(zip(stored.ordinals, stored.scores, strict=True)) == elements


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_rounded_scores_keep_their_order(scores: list[float]) -> None:
    scores.sort(reverse=True)
    elements = [(place, score) for place, score in enumerate(scores)]
    (value,) = encode([(b"x" * 12, 0, elements)], 0)
    stored = decode_list(value).scores
    assert list(stored) == sorted(stored, reverse=True)
    assert all(abs(score) <= F16_MAX for score in stored)


def test_a_list_byte_by_byte() -> None:
    """The example that a client in another language can be tested with."""
    (value,) = encode([(bytes(range(12)), 1, [(258, 1.0), (3, -2.0)])], 513)
    assert value.hex(" ") == (
        "01 00 02 00 00 01 02 03 04 05 06 07 08 09 0a 0b "
        "01 00 00 00 00 00 00 00 01 02 00 00 00 00 00 00 "
        "02 01 00 00 03 00 00 00 00 3c 00 c0"
    )


@pytest.mark.parametrize(
    "decode", [decode_list, decode_features, lambda value: ItemDictionary([value])]
)
@given(value=st.binary(max_size=80).map(lambda rest: b"\x01" + rest))
def test_rubbish_is_an_error_of_the_store(
    decode: Callable[[bytes], object], value: bytes
) -> None:
    """No bytes raise anything but StoreError."""
    with suppress(StoreError):
        decode(value)


def test_a_torn_list_is_refused() -> None:
    (value,) = encode([(b"x" * 12, 0, [(1, 1.0), (2, 0.5)])], 0)
    for broken in (value[:-1], value + b"\0", b"", b"\x02" + value[1:]):
        with pytest.raises(StoreError, match="feedloop export"):
            decode_list(broken)


def test_digests_of_rec_ids() -> None:
    names = [rec_id(user, "homepage", "b") for user in ("u1", "u2", "é")]
    characters = np.frombuffer("".join(names).encode(), np.uint8).reshape(3, 28)
    digests = rec_digests(characters)
    assert [f"rec_{bytes(digest).hex()}" for digest in digests] == names
    for wrong in ("REC_" + names[0][4:], names[0][:-1] + "g", names[0][:-1] + "A"):
        with pytest.raises(ContractError, match="rec_id"):
            rec_digests(np.frombuffer(wrong.encode(), np.uint8).reshape(1, 28))


@given(st.lists(st.text(min_size=1), max_size=20))
def test_items_come_back_exactly(item_ids: list[str]) -> None:
    encoded = [item_id.encode(errors="replace") for item_id in item_ids]
    dictionary = ItemDictionary([encode_items(encoded)])
    assert len(dictionary) == len(encoded)
    found = dictionary.ids(range(len(encoded)))
    assert [item_id.encode() for item_id in found] == encoded


def test_items_across_chunks() -> None:
    numbers = [b"%d" % number for number in range(CHUNK_ITEMS + 2)]
    chunks = [encode_items(numbers[:CHUNK_ITEMS]), encode_items(numbers[CHUNK_ITEMS:])]
    dictionary = ItemDictionary(chunks)
    assert len(dictionary) == CHUNK_ITEMS + 2
    places = [0, CHUNK_ITEMS - 1, CHUNK_ITEMS, CHUNK_ITEMS + 1]
    assert dictionary.ids(places) == [str(place) for place in places]
    with pytest.raises(StoreError):
        dictionary.ids([CHUNK_ITEMS + 2])


def test_a_torn_dictionary_is_refused() -> None:
    chunk = encode_items([b"a", b"bc"])
    for broken in (chunk[:-1], chunk[:9], b"", b"\x02" + chunk[1:]):
        with pytest.raises(StoreError):
            ItemDictionary([broken])


LAYOUT = FeatureLayout(
    "user",
    [
        PackedFeature("clicks", 1, True, 0.0, 60),
        PackedFeature("affinity", 3, False, -1.0, 0),
    ],
)


@given(
    st.lists(
        st.tuples(INSTANTS, st.lists(st.floats(width=32), min_size=4, max_size=4)),
        max_size=5,
    )
)
def test_features_come_back_exactly(rows: list[tuple[int, list[float]]]) -> None:
    values = encode_features(
        LAYOUT,
        np.array([as_of for as_of, _ in rows], np.int64),
        99,
        np.array([row for _, row in rows], np.float32).reshape(-1, 4),
    )
    for value, (as_of, row) in zip(values, rows, strict=True):
        stored = decode_features(value)
        assert (stored.layout_id, stored.as_of) == (LAYOUT.layout_id, as_of)
        assert stored.available_at == 99
        np.testing.assert_array_equal(stored.values, row)


def test_a_feature_that_ran_out_gives_way_to_its_default() -> None:
    values = np.array([[5.0, 0.25, 0.5, 0.75]], np.float32)
    (value,) = encode_features(LAYOUT, np.array([1], np.int64), 1_000_000, values)
    stored = decode_features(value)
    fresh: dict[str, Any] = {"clicks": 5.0, "affinity": [0.25, 0.5, 0.75]}
    assert stored.by_name(LAYOUT, 61_000_000) == fresh
    assert stored.by_name(LAYOUT, 61_000_001) == fresh | {"clicks": 0.0}


def test_a_layout_is_named_by_its_content() -> None:
    again = FeatureLayout.decode(LAYOUT.encode())
    assert again == LAYOUT
    assert again.layout_id == LAYOUT.layout_id
    other = FeatureLayout("item", LAYOUT.features)
    assert other.layout_id != LAYOUT.layout_id
    with pytest.raises(StoreError):
        FeatureLayout.decode(b"{}")


def test_torn_features_are_refused() -> None:
    values = np.zeros((1, 4), np.float32)
    (value,) = encode_features(LAYOUT, np.array([1], np.int64), 1, values)
    for broken in (value[:-1], b"", b"\x02" + value[1:]):
        with pytest.raises(StoreError):
            decode_features(broken)
