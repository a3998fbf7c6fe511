"""Packed values come out as they went in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.codec import (
    FeatureLayout,
    ItemDictionary,
    PackedFeature,
    decode_features,
    decode_list,
    encode_features,
    encode_items,
    encode_lists,
)
from feedloop.errors import StoreError

LAYOUT = FeatureLayout(
    "user",
    [
        PackedFeature("clicks", 1, True, 0.0, 60),
        PackedFeature("affinity", 2, False, 0.5, 0),
    ],
)


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 2**32 - 1), st.floats(-100, 100, width=16)),
            max_size=120,
        ),
        min_size=1,
        max_size=5,
    )
)
def test_lists_of_any_length(lists: list[list[tuple[int, float]]]) -> None:
    flat = [pair for one in lists for pair in one]
    digests = np.arange(12 * len(lists), dtype=np.uint8).reshape(-1, 12)
    values = encode_lists(
        digests,
        np.arange(len(lists), dtype=np.int64),
        99,
        np.array([len(one) for one in lists], np.int64),
        np.array([ordinal for ordinal, _ in flat], np.uint32),
        np.array([score for _, score in flat], np.float32),
    )
    for number, (value, one) in enumerate(zip(values, lists, strict=True)):
        found = decode_list(value)
        assert found.rec_id == f"rec_{digests[number].tobytes().hex()}"
        assert (found.generated_at, found.expires_at) == (number, 99)
        assert list(zip(found.ordinals, found.scores, strict=True)) == one


def test_a_list_of_a_hundred_is_small() -> None:
    (value,) = encode_lists(
        np.zeros((1, 12), np.uint8),
        np.zeros(1, np.int64),
        0,
        np.array([100]),
        np.arange(100, dtype=np.uint32),
        np.ones(100, np.float32),
    )
    assert len(value) == 32 + 600


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=50))
def test_the_dictionary_gives_the_ids_back(ids: list[str]) -> None:
    encoded = [one.encode("utf-8", "surrogatepass") for one in ids]
    if any(b"\xed" in one for one in encoded):
        return
    dictionary = ItemDictionary([encode_items(encoded)])
    assert dictionary.ids(range(len(ids))) == ids
    with pytest.raises(StoreError):
        dictionary.ids([len(ids) + 1])


def test_features_are_found_by_name_until_their_ttl() -> None:
    (value,) = encode_features(
        LAYOUT, np.array([5], np.int64), 7, np.array([[3.0, 0.25, 0.75]], np.float32)
    )
    found = decode_features(value)
    assert (found.layout_id, found.as_of, found.available_at) == (
        LAYOUT.layout_id,
        5,
        7,
    )
    minute = 60_000_000
    assert found.by_name(LAYOUT, 7 + minute) == {
        "clicks": 3.0,
        "affinity": [0.25, 0.75],
    }
    assert found.by_name(LAYOUT, 8 + minute)["clicks"] == 0.0
    assert FeatureLayout.decode(LAYOUT.encode()) == LAYOUT


@given(st.binary(max_size=80))
def test_rubbish_is_an_error_of_the_store(value: bytes) -> None:
    for decode in (decode_list, decode_features, lambda one: ItemDictionary([one])):
        try:
            decode(value)
        except StoreError as error:
            assert str(error)
