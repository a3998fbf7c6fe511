"""The written contract says what the code does."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
import redis

from exporters.export import export_build
from exporters.keyspace import KEYS, LAYOUT, TTLS, Keys, check_surface
from feedloop.clock import FixedClock
from feedloop.errors import SeedError
from feedloop.settings import Settings
from tests.exporters.builder import write_build
from tests.exporters.conftest import AS_OF

TEXT = (Path(__file__).parents[2] / "exporters" / "KEYSPACE.md").read_text()


def rows(header: str) -> list[list[str]]:
    """The rows of the table that begins with ``header``."""
    table = TEXT.split(header, 1)[1].split("\n\n", 1)[0].strip().splitlines()[1:]
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in table]


def test_the_tables_are_the_code() -> None:
    assert f"layout {LAYOUT}" in TEXT.splitlines()[0]
    written = rows("| key | Redis type | value | lives | written by |")
    assert written == [
        [key.form, key.redis_type, key.value, key.ttl, key.writer]
        for key in KEYS.values()
    ]
    lives = rows("| lives | how long |")
    assert lives == [
        [ttl.name, ttl.lifetime.replace("`", "")] for ttl in TTLS.values()
    ] or lives == [[ttl.name, ttl.lifetime] for ttl in TTLS.values()]
    headings = set(re.findall(r"^### (.+)$", TEXT, re.M))
    assert {key.value for key in KEYS.values()} <= headings


def test_a_direct_reader_finds_a_list_as_the_contract_says(
    settings: Settings, client: redis.Redis, clock: FixedClock
) -> None:
    build_id = write_build(settings, AS_OF, {"u1": ["b", "ü", "a"]})
    export_build(settings, settings.builds_dir, build_id, client, clock)
    build = client.hget("t1:{live}:homepage", "build_id").decode()
    value = client.get(f"t1:{{u:u1}}:homepage:{build}:base")
    _, n, _, _, _ = struct.unpack_from("<BxH12sqq", value)
    ordinals = struct.unpack_from(f"<{n}I", value, 32)
    scores = struct.unpack_from(f"<{n}e", value, 32 + 4 * n)
    chunk = client.get(f"t1:items:{build}:0")
    (count,) = struct.unpack_from("<I", chunk, 4)
    at = struct.unpack_from(f"<{count + 1}I", chunk, 8)
    ids = chunk[8 + 4 * (count + 1) :]
    assert [ids[at[o] : at[o + 1]].decode() for o in ordinals] == ["b", "ü", "a"]
    assert list(scores) == sorted(scores, reverse=True)


def test_an_id_that_looks_like_a_placeholder_is_an_id() -> None:
    keys = Keys("t1")
    assert keys.base("<surface>", "homepage", "m@1") == (
        b"t1:{u:<surface>}:homepage:m@1:base"
    )
    before, after = keys.around_user("base", "homepage", "m@1")
    assert before + b"u}1" + after == keys.base("u}1", "homepage", "m@1")


@pytest.mark.parametrize("surface", ["", "Home", "a:b", "a" * 65])
def test_a_surface_that_can_be_no_key_is_refused(surface: str) -> None:
    with pytest.raises(SeedError):
        check_surface(surface)
