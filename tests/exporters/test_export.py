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
from exporters.keyspace import Keys
from exporters.pointers import read_pointers
from feedloop.clock import FixedClock
from feedloop.contracts import builds
from feedloop.errors import BuildInvalid, ForeignNamespace, StoreUnavailable
from feedloop.settings import Settings, to_environment
from tests.exporters.builder import write_build
from tests.exporters.conftest import AS_OF

LISTS = {"u1": ["a", "b", "c"], "u2": ["c"]}
DAY = timedelta(days=1)


def export(
    settings: Settings, client: redis.Redis, clock: FixedClock, build_id: str
) -> None:
    export_build(settings, settings.builds_dir, build_id, client, clock)


def live(client: redis.Redis, keys: Keys) -> tuple[str, str]:
    return tuple(read_pointers(client, keys, ["homepage"])["homepage"])


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
    value = client.get(keys.base("u1", "homepage", build_id))
    assert len(decode_list(value).ordinals) == 3
    assert decode_features(client.get(keys.features("user", "u1"))).values
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
    many = {f"u{number}": ["a", "b"] for number in range(40_000)}
    second = write_build(settings, AS_OF + DAY, many)
    process = subprocess.Popen(
        [sys.executable, "-m", "feedloop", "export"],
        env=os.environ | to_environment(settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    key = keys.items(second, 0)
    while not client.exists(key):  # it has begun to write
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert live(client, keys)[0] in (first, second)
    export(settings, client, clock, second)
    assert live(client, keys) == (second, first)
    assert client.exists(keys.base("u39999", "homepage", second))


def test_namespaces_live_side_by_side_and_layouts_do_not_mix(
    settings: Settings, client: redis.Redis, clock: FixedClock, keys: Keys
) -> None:
    other = msgspec.structs.replace(settings, namespace="t2")
    first = write_build(settings, AS_OF, LISTS)
    second = write_build(other, AS_OF, {"u1": ["z"]})
    export(settings, client, clock, first)
    export(other, client, clock, second)
    assert live(client, keys)[0] == first
    mine = client.get(keys.base("u1", "homepage", first))
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
