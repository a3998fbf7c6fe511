"""A build goes out whole, and only then is it live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta

import msgspec
import pytest
import redis

from exporters.codec import decode_features, decode_list
from exporters.export import export_build
from exporters.keyspace import RETIRED_S, Keys
from exporters.pointers import flip, read_pointers
from feedloop.clock import FixedClock
from feedloop.contracts import builds
from feedloop.contracts.lists import BuildId
from feedloop.errors import (
    BuildInvalid,
    ForeignNamespace,
    StoreError,
    StoreUnavailable,
)
from feedloop.settings import Settings, to_environment
from tests.exporters.builder import write_build
from tests.exporters.conftest import AS_OF
from tests.exporters.proxy import StallingProxy

LISTS = {"u1": ["a", "b", "c"], "u2": ["c"]}
DAY = timedelta(days=1)


def export(
    settings: Settings, client: redis.Redis, clock: FixedClock, build_id: str
) -> None:
    export_build(settings, settings.builds_dir, build_id, client, clock)


def live(client: redis.Redis, keys: Keys) -> tuple[str, str]:
    return read_pointers(client, keys, ["homepage"])["homepage"]


def packed(client: redis.Redis, key: bytes) -> bytes:
    value = client.get(key)
    assert isinstance(value, bytes)
    return value


def test_lists_and_features_are_there_and_every_key_has_a_ttl(
    settings: Settings, client: redis.Redis, clock: FixedClock, keys: Keys
) -> None:
    build_id = write_build(
        settings,
        AS_OF,
        LISTS,
        users=[{"user_id": "u1", "user_ctr_30d": 0.25}],
        items=[{"item_id": "a", "item_age_days": 3.0}],
    )
    report = export_build(settings, settings.builds_dir, build_id, client, clock)
    assert report.lists == 2
    assert report.features == {"user": 1, "item": 1}
    value = packed(client, keys.base("u1", "homepage", build_id))
    assert len(decode_list(value).ordinals) == 3
    assert decode_features(packed(client, keys.features("user", "u1"))).values
    names = list(client.scan_iter())
    assert names
    for name in names:
        assert name.startswith(b"t1:")
        assert client.ttl(name) > 0, name
    two_days = 48 * 3600
    assert 0 < client.ttl(keys.base("u1", "homepage", build_id)) <= two_days


def test_exporting_twice_changes_nothing(
    settings: Settings, client: redis.Redis, clock: FixedClock
) -> None:
    build_id = write_build(settings, AS_OF, LISTS)

    def content() -> dict[bytes, object]:
        return {
            name: client.get(name)
            if client.type(name) == b"string"
            else client.hgetall(name)
            for name in client.scan_iter()
            if client.type(name) != b"set"
        }

    export(settings, client, clock, build_id)
    before = content()
    export(settings, client, clock, build_id)
    assert content() == before


def test_the_pointer_moves_forward_and_remembers(
    settings: Settings, client: redis.Redis, clock: FixedClock, keys: Keys
) -> None:
    first = write_build(settings, AS_OF, LISTS)
    second = write_build(settings, AS_OF + DAY, LISTS)
    export(settings, client, clock, first)
    export(settings, client, clock, second)
    assert live(client, keys) == (second, first)
    # the old lists are still warm
    assert client.exists(keys.base("u1", "homepage", first))
    with pytest.raises(BuildInvalid, match="--force"):
        export(settings, client, clock, first)
    export_build(settings, settings.builds_dir, first, client, clock, force=True)
    assert live(client, keys) == (first, second)


def test_a_torn_build_moves_nothing(
    settings: Settings, client: redis.Redis, clock: FixedClock, keys: Keys
) -> None:
    first = write_build(settings, AS_OF, LISTS)
    export(settings, client, clock, first)
    second = write_build(settings, AS_OF + DAY, LISTS)
    path = settings.builds_dir / second / builds.LISTS / builds.LISTS_FILE
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BuildInvalid):
        export(settings, client, clock, second)
    nobody = write_build(settings, AS_OF + 2 * DAY, LISTS, cold=[])
    with pytest.raises(BuildInvalid, match="cold-start"):
        export(settings, client, clock, nobody)
    assert live(client, keys) == (first, "")


def test_a_killed_export_leaves_the_old_build_live_and_can_be_repeated(
    settings: Settings, client: redis.Redis, clock: FixedClock, keys: Keys
) -> None:
    first = write_build(settings, AS_OF, LISTS)
    export(settings, client, clock, first)
    many = {f"u{number}": ["a", "b"] for number in range(20_000)}
    second = write_build(settings, AS_OF + DAY, many)

    def base_lists() -> int:
        return sum(1 for _ in client.scan_iter(f"t1:*{second}:base", count=5_000))

    with StallingProxy(settings.redis_url, 1_000_000) as proxy:
        slow = msgspec.structs.replace(settings, redis_url=proxy.url)
        process = subprocess.Popen(
            [sys.executable, "-m", "feedloop", "export"],
            env=os.environ | to_environment(slow),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert proxy.stalled.wait(120)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert 0 < base_lists() < len(many)
        assert live(client, keys) == (first, "")
        for name in client.scan_iter(count=5_000):
            assert client.ttl(name) > 0, name
    export(settings, client, clock, second)
    assert live(client, keys) == (second, first)
    assert base_lists() == len(many)


def test_a_full_store_moves_nothing(
    settings: Settings, client: redis.Redis, clock: FixedClock, keys: Keys
) -> None:
    first = write_build(settings, AS_OF, LISTS)
    export(settings, client, clock, first)
    many = {f"u{number}": ["a", "b"] for number in range(20_000)}
    second = write_build(settings, AS_OF + DAY, many)
    used = int(client.info("memory")["used_memory"])
    try:
        # Refusing and forgetting alike: neither goes live.
        for policy, sentence in (("noeviction", "memory"), ("allkeys-lru", "dropped")):
            client.config_set("maxmemory-policy", policy)
            client.config_set("maxmemory", used + 2_000_000)
            with pytest.raises(StoreError, match=sentence):
                export(settings, client, clock, second)
            client.config_set("maxmemory", 0)
            client.flushall()
            export(settings, client, clock, first)
        assert live(client, keys) == (first, "")
    finally:
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")


def test_the_build_before_the_previous_one_is_retired(
    settings: Settings, client: redis.Redis, clock: FixedClock, keys: Keys
) -> None:
    surfaces = ("homepage", "search")
    first, second, third = (
        write_build(settings, AS_OF + days * DAY, LISTS, surfaces=surfaces)
        for days in range(3)
    )
    for build_id in (first, second, third):
        report = export_build(settings, settings.builds_dir, build_id, client, clock)
        assert report.lists_by_surface == {"homepage": 2, "search": 2}
    assert report.previous == {"homepage": second, "search": second}

    def most_ttl(build_id: str) -> int:
        shared = [keys.build(build_id), keys.items(build_id, 0)]
        shared += [keys.cold(surface, build_id) for surface in surfaces]
        return max(client.ttl(key) for key in shared)

    assert 0 < most_ttl(first) <= RETIRED_S
    assert most_ttl(second) > RETIRED_S
    assert most_ttl(third) > RETIRED_S
    assert client.smembers(keys.surfaces()) == {b"homepage", b"search"}
    # Exported again it is what it was.
    export_build(settings, settings.builds_dir, first, client, clock, force=True)
    assert most_ttl(first) > RETIRED_S


def test_an_older_build_does_not_win_a_race(
    settings: Settings, client: redis.Redis, clock: FixedClock, keys: Keys
) -> None:
    """The age is looked at again when the pointer moves."""
    older, newer = (str(BuildId("v1", AS_OF + days * DAY)) for days in range(2))
    flip(client, keys, ["homepage"], newer, clock.now(), force=False)
    with pytest.raises(BuildInvalid, match="--force"):
        flip(client, keys, ["homepage"], older, clock.now(), force=False)
    assert live(client, keys) == (newer, "")
    assert flip(client, keys, ["homepage"], newer, clock.now(), force=False) == {
        "homepage": newer
    }
    assert live(client, keys) == (newer, "")


def test_a_list_of_a_hundred_fits_the_memory_planned_for_it(
    settings: Settings, client: redis.Redis, clock: FixedClock, keys: Keys
) -> None:
    hundred = [f"item_{number:06d}" for number in range(100)]
    build_id = write_build(
        settings, AS_OF, {"usr_000001": hundred}, model_version="als-1a2b3c4d"
    )
    export(settings, client, clock, build_id)
    key = keys.base("usr_000001", "homepage", build_id)
    assert client.strlen(key) == 632
    assert 0 < (client.memory_usage(key) or 0) <= 800


def test_namespaces_live_side_by_side_and_layouts_do_not_mix(
    settings: Settings, client: redis.Redis, clock: FixedClock, keys: Keys
) -> None:
    other = msgspec.structs.replace(settings, namespace="t2")
    first = write_build(settings, AS_OF, LISTS)
    second = write_build(other, AS_OF, {"u1": ["z"]})
    export(settings, client, clock, first)
    export(other, client, clock, second)
    assert live(client, keys)[0] == first
    mine = packed(client, keys.base("u1", "homepage", first))
    assert len(decode_list(mine).ordinals) == 3
    client.hset(keys.meta(), "layout", "0")
    with pytest.raises(ForeignNamespace, match="layout '0'"):
        export(settings, client, clock, first)


def test_a_store_that_is_away_is_said_in_a_sentence(
    settings: Settings, clock: FixedClock
) -> None:
    build_id = write_build(settings, AS_OF, LISTS)
    away = msgspec.structs.replace(settings, redis_url="redis://127.0.0.1:1/0")
    with (
        redis.Redis.from_url(away.redis_url) as client,
        pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1"),
    ):
        export(away, client, clock, build_id)
