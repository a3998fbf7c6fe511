"""KEYSPACE.md says what the code does: its tables are read and compared, its
example is run."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from redis.crc import key_slot

from exporters import codec, keyspace
from exporters.export import export_build
from exporters.keyspace import KEYS, TTLS, Keys, check_surface
from feedloop.clock import FixedClock
from feedloop.errors import SeedError
from feedloop.settings import Settings
from tests.exporters.builder import COLD_ITEMS, score, write_build
from tests.exporters.conftest import AS_OF, NOW

DOCUMENT = (Path(keyspace.__file__).parent / "KEYSPACE.md").read_text()
BUILD = "v1@20260301T030000000000Z"


def section(heading: str) -> str:
    """The text below a heading, up to the next one."""
    return re.split(r"^##+ ", DOCUMENT.split(f"# {heading}\n")[1], flags=re.M)[0]


def table(heading: str) -> list[tuple[str, ...]]:
    """The rows of the table below a heading, its header left out."""
    lines = [x for x in section(heading).splitlines() if x.startswith("|")]
    return [tuple(cell.strip() for cell in x.strip("|").split("|")) for x in lines[2:]]


def test_the_document_is_of_this_layout() -> None:
    assert DOCUMENT.startswith(f"# Key space, layout {keyspace.LAYOUT}\n")


def test_the_table_of_keys_is_the_code() -> None:
    assert table("Keys") == [
        (k.name, f"`{k.form}`", k.redis_type, k.value, k.ttl, k.writer)
        for k in KEYS.values()
    ]


def test_the_table_of_ttls_is_the_code() -> None:
    assert table("TTLs") == [(t.name, t.lifetime) for t in TTLS.values()]
    assert {key.ttl for key in KEYS.values()} == set(TTLS)


def test_every_value_has_its_section() -> None:
    sections = re.findall(r"^### (.*)$", DOCUMENT, flags=re.M)
    assert sorted(sections) == sorted({key.value for key in KEYS.values()})


@pytest.mark.parametrize(
    ("heading", "header"),
    [("list", codec.LIST_HEADER), ("features", codec.FEATURE_HEADER)],
)
def test_the_headers_are_the_code(heading: str, header: np.dtype[Any]) -> None:
    stated = [(int(row[0]), row[2]) for row in table(heading) if row[0].isdigit()]
    fields = header.fields
    assert fields is not None
    written = [(int(fields[name][1]), name) for name in fields]
    assert stated[: len(written)] == written
    assert stated[len(written)][0] == header.itemsize


def test_names_are_the_forms_filled_in() -> None:
    keys = Keys("shop")
    assert keys.base("u1", "homepage", BUILD) == (
        b"shop:{u:u1}:homepage:v1@20260301T030000000000Z:base"
    )
    assert keys.features("item", "i1") == b"shop:{i:i1}:batch"
    assert keys.live("homepage") == b"shop:{live}:homepage"
    assert keys.items(BUILD, 3) == b"shop:items:v1@20260301T030000000000Z:3"


@pytest.mark.parametrize("user_id", ["u1", "<surface>", "}", "{x}", "a:b", "é", " "])
def test_parts_around_an_id_make_the_same_name(user_id: str) -> None:
    keys = Keys("shop")
    before, after = keys.around_user("base", "homepage", BUILD)
    assert before + user_id.encode() + after == keys.base(user_id, "homepage", BUILD)
    before, after = keys.around_entity("user")
    assert before + user_id.encode() + after == keys.features("user", user_id)


@pytest.mark.parametrize("user_id", ["u1", "}", "{", "a}b", "{}", "}:homepage:x"])
def test_base_and_fresh_of_a_user_stand_in_one_slot(user_id: str) -> None:
    keys = Keys("shop")
    slots = {
        key_slot(keys.base(user_id, "homepage", BUILD)),
        key_slot(keys.fresh(user_id, "homepage", BUILD)),
        key_slot(keys.features("user", user_id)),
    }
    assert len(slots) == 1
    assert b"{}" not in keys.base("", "homepage", BUILD)


def test_an_id_that_looks_like_a_key_is_not_another_users_key() -> None:
    keys = Keys("shop")
    hostile = "a}:homepage:" + BUILD + ":base"
    assert keys.base(hostile, "homepage", BUILD) != keys.base("a", "homepage", BUILD)


@pytest.mark.parametrize("surface", ["", "Home", "a:b", "home}page", "a" * 65])
def test_a_surface_that_breaks_a_key_is_refused(surface: str) -> None:
    assert check_surface("home-page_2") == "home-page_2"
    with pytest.raises(SeedError, match=r"seeds/surfaces\.csv"):
        check_surface(surface)


def test_the_documents_reader_reads_what_export_writes(
    settings: Settings, client: redis.Redis, clock: FixedClock
) -> None:
    build_id = write_build(settings, AS_OF, {"u1": ["b", "é", "a"], "u{2}": ["a"]})
    export_build(settings, settings.builds_dir, build_id, client, clock)
    client.sadd(Keys("t1").inactive(), "é")
    example = re.search(r"```python\n(.*?)```", DOCUMENT, flags=re.S)
    assert example is not None
    scope: dict[str, Any] = {}
    exec(example[1], scope)

    def microseconds(at: datetime) -> int:
        return int((at - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))

    lists = scope["Lists"](client, "t1", "homepage")
    before = client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"]
    assert lists.read("u1", microseconds(NOW)) == [("b", score(0)), ("a", score(2))]
    assert lists.read("u{2}", microseconds(NOW)) == [("a", score(0))]
    assert client.info("commandstats")["cmdstat_mget"]["calls"] == before + 2
    cold = [(item, score(place)) for place, item in enumerate(COLD_ITEMS)]
    assert lists.read("nobody", microseconds(NOW)) == cold
    assert lists.read("u1", microseconds(NOW + timedelta(hours=49))) == cold
