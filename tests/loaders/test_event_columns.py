"""What is taken quickly is what the contract's own decoder would take."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from feedloop.contracts.events import PromotedContext, decode_event
from feedloop.contracts.lists import RequestSigner, rec_id
from feedloop.contracts.seeds import read_event_types
from feedloop.settings import from_environment
from loaders.event_columns import EventColumns
from tests.loaders.sending import NOW, event

NOW_MS = int(NOW.timestamp() * 1000)
SKEW = timedelta(hours=1)
TYPES = read_event_types(from_environment({}).seeds_dir)
SIGNER = RequestSigner("a-signing-key")

near_the_edges = st.sampled_from(
    [
        "2026-02-28T09:00:00Z",
        "2026-02-29T09:00:00Z",
        "2024-02-29T09:00:00.123456+05:30",
        "2026-02-28T09:00:00.1234567Z",
        "2026-02-28t09:00:00z",
        "2026-02-28 09:00:00Z",
        "2026-02-28T09:00Z",
        "2026-02-28T09:00:00",
        "2026-02-28",
        "2026-04-31T09:00:00Z",
        "2026-02-28T24:00:00Z",
        "2026-02-28T23:59:60Z",
        "2026-02-28T09:00:00+0100",
        "2026-02-28T09:00:00-23:59",
        "1989-12-31T23:59:59.999999Z",
        "1990-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-05:00",
        (NOW + SKEW).isoformat(),
        (NOW + SKEW + timedelta(microseconds=1)).isoformat(),
        " 2026-02-28T09:00:00Z",
        "2026-02-28T09:00:00Z\n",
        "٢٠٢٦-02-28T09:00:00Z",
    ]
)
ids = st.one_of(
    st.text(max_size=140),
    st.sampled_from(["", "x" * 128, "x" * 129, "ü" * 64, "ü" * 65, "a\x00b", "ok"]),
)
contexts = st.one_of(
    st.sampled_from(
        [
            {"device": "ios", "page_position": 3, "dwell_time_ms": 2**53},
            {"page_position": -1},
            {"page_position": 1_000_001},
            {"dwell_time_ms": 1.0},
            {"dwell_time_ms": 2**53 + 1},
            {"device": None, "unknown": [1, {"deep": None}]},
            {"device": 7},
            {"device": "x" * 513},
            {"filler": "x" * 16_384},
            {"request_id": SIGNER.sign(rec_id("u", "homepage", "m@x"), "ok")},
            None,
            [],
            "text",
        ]
    ),
    st.dictionaries(st.sampled_from(["session_id", "surface", "more"]), st.text()),
)
fields = {
    "event_id": ids,
    "user_id": ids,
    "item_id": ids,
    "event_type": st.sampled_from([*TYPES, "dance", ""]),
    "occurred_at": near_the_edges,
}
more = {
    "event_value": st.one_of(st.none(), st.floats(), st.integers(), st.just("high")),
    "context": contexts,
    "colour": st.just("red"),
}
documents = st.fixed_dictionaries(fields, optional=more).map(msgspec.json.encode)
broken = st.sampled_from(
    [
        None,
        b"",
        b"{}",
        b"null",
        b"[" * 5000,
        b'{"event_id": "\xff"}',
        msgspec.json.encode(event(1)) + b" ",
        msgspec.json.encode(event(1)) + msgspec.json.encode(event(2)),
        msgspec.json.encode(event(1)).replace(
            b'"click"', b'"click","event_value":1e999'
        ),
        msgspec.json.encode(event(1)).replace(
            b'"click"', b'"click","context":{"a":"\xff"}'
        ),
        msgspec.json.encode(event(1)).replace(
            b'"click"', b'"click","context":' + b"[" * 5000 + b"]" * 5000
        ),
    ]
)
usual = st.integers(0, 99).map(lambda n: msgspec.json.encode(event(n)))


def expected(value: bytes) -> dict[str, Any]:
    decoded = decode_event(value, NOW, TYPES, SKEW)
    found = decoded.event
    row: dict[str, Any] = {
        name: getattr(found, name)
        for name in ("event_id", "user_id", "item_id", "event_type", "event_value")
    }
    row |= msgspec.structs.asdict(decoded.promoted)
    request = decoded.promoted.request_id
    return row | {
        "occurred_at": found.occurred_at.astimezone(UTC),
        "context": decoded.context,
        "rec_id": SIGNER.verify(request, found.user_id) if request else None,
    }


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(documents, documents, broken, usual), max_size=12))
def test_what_is_taken_is_what_the_contract_says(values: list[bytes | None]) -> None:
    quick = EventColumns(TYPES, SKEW, SIGNER)
    columns, taken = quick.decode(values, np.full(len(values), NOW_MS))
    assert {len(column) for column in columns.values()} == {len(taken)}
    for row, position in enumerate(taken.tolist()):
        value = values[position]
        assert value is not None
        assert {name: columns[name][row].as_py() for name in columns} == expected(value)


def test_the_usual_events_are_taken_whatever_stands_between() -> None:
    good = [msgspec.json.encode(event(n)) for n in range(20)]
    good += [
        msgspec.json.encode(event(n, occurred_at=text, context={"page_position": n}))
        for n, text in enumerate(
            [
                "2026-02-28T09:00:00.123Z",
                "2026-02-28T09:00:00+00:00",
                "2026-02-28T09:00:00.123456-03:00",
            ]
        )
    ]
    quick = EventColumns(TYPES, SKEW, SIGNER)
    times = np.full(len(good), NOW_MS)
    assert quick.decode(good, times)[1].tolist() == list(range(len(good)))
    bad = [b"bad", msgspec.json.encode(event(1, occurred_at="2026-02-30T00:00:00Z"))]
    mixed = [value for one in good for value in (one, *bad)]
    taken = quick.decode(mixed, np.full(len(mixed), NOW_MS))[1]
    assert taken.tolist() == list(range(0, len(mixed), 3))


def test_times_the_log_may_not_have_are_not_taken() -> None:
    value = msgspec.json.encode(event(1))
    times = np.array([-1, NOW_MS, 2**62])
    assert EventColumns(TYPES, SKEW, SIGNER).decode([value] * 3, times)[1].tolist() == [
        1
    ]


def test_every_promoted_key_has_its_column() -> None:
    value = msgspec.json.encode(event(1, occurred_at=datetime(2026, 2, 1, tzinfo=UTC)))
    columns, _ = EventColumns(TYPES, SKEW, SIGNER).decode([value], np.array([NOW_MS]))
    assert set(PromotedContext.__struct_fields__) < set(columns)
