"""Whatever is sent, the answer is one of those written down, and what was
accepted is never a dead letter."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedloop.clock import FixedClock
from feedloop.contracts.log import Record, Records
from feedloop.settings import Settings, from_environment
from loaders.decode import decoder
from loaders.log import open_log
from tests.loaders.collecting import EVENT, ITEM, USER, WRITE, serving
from tests.loaders.sending import NOW

STREAMS = {"events": EVENT, "items": ITEM, "users": USER}
ENCODINGS = st.sampled_from([*[""] * 9, "identity", "gzip", "GZIP", "deflate", "x, y"])
TYPES = st.sampled_from(
    [
        *[""] * 5,
        *["application/json"] * 5,
        "application/json; charset=utf-8",
        "application/json; charset=latin-1",
        "application/x-ndjson",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
    ]
)


class Server:
    """A collector, and what its log got since one last looked."""

    def __init__(self, client: httpx.Client, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        self._log = open_log(settings, FixedClock(NOW))
        self._offsets: dict[str, dict[int, int]] = {stream: {} for stream in STREAMS}

    def arrived(self, stream: str) -> list[Record]:
        with closing(self._log):
            topic = self.settings.topic(stream)
            batch = self._log.read(topic, self._offsets[stream], 100_000)
        self._offsets[stream] = dict(batch.next_offsets)
        return list(batch.records)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home: Path = tmp_path_factory.mktemp("fuzz")
    settings = from_environment({}, home=str(home), namespace="t1")
    clock = FixedClock(NOW + timedelta(microseconds=1))
    with serving(settings, clock) as client:
        yield Server(client, settings)


# JSON texts, not values: what no encoder would write is what is looked for.
STRINGS = st.text(max_size=40).map(
    lambda text: json.dumps(text, ensure_ascii=len(text) % 2 == 0)
)
ODD = [
    *("null", "true", "false", "-0", "0.0", "1e-999", "9" * 400, "-" + "9" * 30),
    *("18446744073709551616", "9007199254740993", "1772366400", "[]", "{}"),
    *('""', '"\\u0000"', '"' + "a" * 128 + '"', '"' + "ü" * 64 + '"'),
    *('"' + "a" * 129 + '"', '"' + "ü" * 65 + '"', '"click"', '"homepage_feed"'),
    *('"2026-03-01T11:00:00Z"', '"2026-03-01"', '"0001-01-01T00:00:00Z"'),
    *('"9999-12-31T23:59:60Z"', '"2026-03-01T24:00:00Z"', '"2026-02-30T00:00:00Z"'),
    *('"2026-03-01T12:00:00.1234567+14:00"', '"2026-03-01T11:00:00-23:59"'),
    *("[" * n + "]" * n for n in (61, 62, 63, 64, 500)),
    *('{"a":' * n + "1" + "}" * n for n in (61, 62, 63, 500)),
]
BROKEN = [
    *("NaN", "Infinity", "-Infinity", "None", "1e999", "-1e999", "01", "1.", "+1"),
    *("0x10", "", '"\\ud800"', '"\\udc00\\ud800"', '"\t"', "'a'", '"\\x41"'),
    *('"unfinished', "{,}", "[1,]", "[" * 20_000),
]
SCALARS = st.one_of(
    st.integers(0, len(ODD) - 1).map(ODD.__getitem__), STRINGS, st.integers().map(str)
)
KEYS = STRINGS | st.sampled_from(
    ['"context"', '"event_id"', '"position"', '"page_position"', '"surface"']
)


def _object(pairs: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{name}:{value}" for name, value in pairs) + "}"


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda found: f"[{','.join(found)}]"),
        st.lists(st.tuples(KEYS, inner), max_size=4).map(_object),
    ),
    max_leaves=6,
)


@st.composite
def almost(draw: st.DrawFn, stream: str) -> str:
    """A record of ``stream`` with none, one or more of its fields spoilt, sent
    twice or unknown."""
    good = STREAMS[stream]
    pairs = [(json.dumps(name), json.dumps(value)) for name, value in good.items()]
    context = st.lists(st.tuples(KEYS, VALUES), max_size=3).map(_object)
    if draw(st.booleans()):
        name = '"context"' if stream == "events" else '"metadata"'
        pairs.append((name, draw(context)))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        at = draw(st.integers(0, len(pairs)))
        name = pairs[at][0] if at < len(pairs) else draw(KEYS)
        spoilt = (name, draw(VALUES))
        if draw(st.booleans()):
            pairs.append(spoilt)
        else:
            pairs[at : at + 1] = [spoilt]
    return _object(pairs)


@st.composite
def bodies(draw: st.DrawFn, stream: str) -> bytes:
    one = almost(stream)
    shape = draw(st.sampled_from(["one", "batch", "wrapped", "lines", "any", "bytes"]))
    if shape == "bytes":
        return draw(st.binary(max_size=200))
    many = st.lists(one | VALUES, max_size=4)
    text = {
        "one": one,
        "batch": many.map(lambda found: f"[{','.join(found)}]"),
        "wrapped": many.map(lambda found: f'{{"events":[{",".join(found)}]}}'),
        "lines": many.map("\n".join),
        "any": VALUES,
    }[shape]
    body = draw(text).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        broken = BROKEN[draw(st.integers(0, len(BROKEN) - 1))].encode()
        body = body.replace(b'"click"', broken, 1)
    if draw(st.integers(0, 9)) == 0:
        body = b"\xef\xbb\xbf" + body
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.binary(min_size=1, max_size=2)) + body[at:]
    return body


def check(answer: httpx.Response) -> int:
    """That the answer is one of the documented; how much was accepted."""
    assert answer.status_code in {202, 400, 413, 415, 422}, answer.text
    body = answer.json()
    if "results" in body:
        accepted = [one["accepted"] for one in body["results"]]
        assert body["accepted"] == accepted.count(True)
        assert body["rejected"] == accepted.count(False)
        assert answer.status_code == (202 if any(accepted) else 422)
        for one in body["results"]:
            assert isinstance(one["event_id"], str | None)
            assert one["accepted"] or one["reason"]
        return accepted.count(True)
    if answer.status_code == 202:
        assert body["accepted"] is True
        return 1
    assert body["detail"]
    return 0


def assert_loads(server: Server, stream: str, accepted: int) -> None:
    arrived = server.arrived(stream)
    assert len(arrived) == accepted
    decoded = decoder(stream, server.settings).decode(Records.of(arrived), 1)
    assert decoded.dead.to_pylist() == []
    assert decoded.rows.num_rows == accepted


@settings(deadline=None, max_examples=400)
@given(
    body=bodies("events"),
    encoding=ENCODINGS,
    content_type=TYPES,
    key=st.none() | st.text(st.characters(codec="latin-1"), max_size=20),
)
def test_events(
    server: Server, body: bytes, encoding: str, content_type: str, key: str | None
) -> None:
    headers = {"Content-Encoding": encoding, "Content-Type": content_type}
    if key is not None and key.isprintable():
        headers["Idempotency-Key"] = key.strip()
    packed = gzip.compress(body) if encoding.lower() == "gzip" else body
    answer = server.client.post(
        "/events",
        content=packed,
        headers={
            name: value.encode("latin-1") for name, value in headers.items() if value
        },
    )
    assert_loads(server, "events", check(answer))


@settings(deadline=None, max_examples=150)
@given(
    stream=st.sampled_from(["items", "users"]),
    record_id=st.text(max_size=20),
    data=st.data(),
)
def test_the_catalogue(
    server: Server, stream: str, record_id: str, data: st.DataObject
) -> None:
    body = data.draw(bodies(stream))
    path = "".join(f"%{byte:02x}" for byte in record_id.encode())
    answer = server.client.put(f"/{stream}/{path}", content=body, headers=WRITE)
    if not record_id:
        assert answer.status_code in {404, 422}
        return
    assert_loads(server, stream, check(answer))
