"""GET over real HTTP, from a real store."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import redis

from exporters.codec import encode_lists, microseconds
from exporters.embedded_redis import embedded_redis
from exporters.export import export_build
from exporters.keyspace import Keys
from exporters.pointers import flip
from exporters.redis_store import connect
from exporters.serving import create_app
from feedloop.clock import FixedClock
from feedloop.contracts.lists import COLD_USER, RequestSigner, rec_id
from feedloop.server import running
from feedloop.settings import Settings
from tests.exporters.builder import COLD_ITEMS, write_build
from tests.exporters.conftest import AS_OF

READ = {"X-API-Key": "dev-read"}
WRITE = {"Authorization": "Bearer dev-write"}
LISTS = {"u1": [f"i{number}" for number in range(30)], "a/b": ["slash"]}


@contextmanager
def serving(settings: Settings, clock: FixedClock) -> Iterator[httpx.Client]:
    with (
        running(create_app(settings, clock)) as url,
        httpx.Client(base_url=url, headers=READ) as http,
    ):
        yield http


def exported(
    settings: Settings, client: redis.Redis, clock: FixedClock, **changes: Any
) -> str:
    build_id = write_build(
        settings,
        changes.pop("as_of", AS_OF),
        changes.pop("lists", LISTS),
        users=[{"user_id": "u1", "user_ctr_30d": 0.25}],
        **changes,
    )
    export_build(settings, settings.builds_dir, build_id, client, clock)
    return build_id


def items(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def eventually(http: httpx.Client, path: str, status: int) -> httpx.Response:
    """The answer once it has ``status``: pointers are at most a second old."""
    deadline = time.monotonic() + 20
    while True:
        answer = http.get(path)
        if answer.status_code == status:
            return answer
        assert time.monotonic() < deadline, answer.text


def test_a_person_gets_their_list(
    settings: Settings, client: redis.Redis, clock: FixedClock
) -> None:
    build_id = exported(settings, client, clock)
    with serving(settings, clock) as http:
        answer = http.get("/recommendations/u1", params={"limit": 5})
        body = answer.json()
        assert items(answer) == LISTS["u1"][:5]
        assert [item["rank"] for item in body["items"]] == [1, 2, 3, 4, 5]
        assert body["build_id"] == build_id
        assert body["model_version"] == "v1"
        assert body["rec_id"] == rec_id("u1", "homepage", build_id)
        signer = RequestSigner(settings.signing_key)
        assert signer.verify(body["request_id"], "u1") == body["rec_id"]
        assert answer.headers["cache-control"] == "no-store"
        assert len(items(http.get("/recommendations/u1"))) == 20
        assert items(http.get("/recommendations/a%2Fb")) == ["slash"]
        alias = http.get("/recommendations/u1", params={"surface": "homepage_feed"})
        assert items(alias) == LISTS["u1"][:20]


def test_a_stranger_gets_the_cold_start_list(
    settings: Settings, client: redis.Redis, clock: FixedClock
) -> None:
    build_id = exported(settings, client, clock)
    with serving(settings, clock) as http:
        answer = http.get("/recommendations/nobody")
        assert items(answer) == COLD_ITEMS
        assert answer.json()["rec_id"] == rec_id(COLD_USER, "homepage", build_id)


def test_a_list_that_has_run_out_gives_way(
    settings: Settings, client: redis.Redis, clock: FixedClock
) -> None:
    exported(settings, client, clock)
    clock.at += timedelta(hours=48)
    with serving(settings, clock) as http:
        assert items(http.get("/recommendations/u1")) == COLD_ITEMS


def test_items_that_went_inactive_are_left_out(
    settings: Settings, client: redis.Redis, clock: FixedClock
) -> None:
    exported(settings, client, clock)
    client.sadd("t1:inactive", "i0", "i2")
    with serving(settings, clock) as http:
        answer = http.get("/recommendations/u1", params={"limit": 3})
        assert items(answer) == ["i1", "i3", "i4"]
        assert [item["rank"] for item in answer.json()["items"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("path", "headers", "status", "word"),
    [
        ("/recommendations/u1", {}, 401, "missing"),
        ("/recommendations/u1", {"X-API-Key": "dev-collect"}, 403, "right to read"),
        ("/recommendations/u1", {"X-API-Key": "wrong"}, 403, "not known"),
        ("/recommendations/u1?surface=cellar", READ, 404, "homepage"),
        ("/recommendations/u1?limit=0", READ, 422, "limit"),
        ("/recommendations/u1?limit=many", READ, 422, "limit"),
        ("/recommendations/" + "x" * 129, READ, 422, "128"),
        ("/features/user/u1", READ, 403, "write"),
        ("/features/user/nobody", WRITE, 404, "nobody"),
        ("/features/planet/mars", WRITE, 422, "planet"),
    ],
)
def test_refusals_say_why(
    settings: Settings,
    client: redis.Redis,
    clock: FixedClock,
    path: str,
    headers: dict[str, str],
    status: int,
    word: str,
) -> None:
    exported(settings, client, clock)
    with running(create_app(settings, clock)) as url:
        answer = httpx.get(url + path, headers=headers)
    assert answer.status_code == status
    assert word in answer.json()["detail"]


def test_features_by_name(
    settings: Settings, client: redis.Redis, clock: FixedClock
) -> None:
    exported(settings, client, clock)
    with running(create_app(settings, clock)) as url:
        body = httpx.get(f"{url}/features/user/u1", headers=WRITE).json()
    assert body["features"]["user_ctr_30d"] == 0.25
    assert body["features"]["user_events_7d"] == 0.0


def test_the_next_build_is_served_without_a_restart(
    settings: Settings, client: redis.Redis, clock: FixedClock
) -> None:
    with serving(settings, clock) as http:
        nothing = http.get("/recommendations/u1")
        assert nothing.status_code == 503
        assert "feedloop build" in nothing.json()["detail"]
        assert http.get("/readyz").status_code == 503
        exported(settings, client, clock)
        assert items(eventually(http, "/recommendations/u1", 200)) == LISTS["u1"][:20]
        later = exported(
            settings,
            client,
            clock,
            as_of=AS_OF + timedelta(days=1),
            lists={"u1": ["new"]},
        )
        deadline = time.monotonic() + 20
        while http.get("/recommendations/u1").json()["build_id"] != later:
            assert time.monotonic() < deadline
        assert items(http.get("/recommendations/u1")) == ["new"]
        assert http.get("/readyz").status_code == 200
        assert "feedloop_lists_served" in http.get("/metrics").text
        assert "/recommendations/{user_id}" in http.get("/schema/openapi.json").text


def test_a_list_is_one_mget(
    settings: Settings, client: redis.Redis, clock: FixedClock
) -> None:
    exported(settings, client, clock)
    with serving(settings, clock) as http:
        items(http.get("/recommendations/u1"))
        client.config_resetstat()
        items(http.get("/recommendations/u1"))
        stats = client.info("commandstats")
    assert stats["cmdstat_mget"]["calls"] == 1
    assert "cmdstat_get" not in stats


def test_a_store_that_goes_away_and_comes_back(
    settings: Settings, clock: FixedClock
) -> None:
    own = msgspec.structs.replace(settings, redis_url="")
    with embedded_redis(own) as redis_url:
        reached = msgspec.structs.replace(own, redis_url=redis_url)
        with connect(reached) as client:
            exported(reached, client, clock)
        app = create_app(reached, clock)
        with (
            running(app) as url,
            httpx.Client(base_url=url, headers=READ) as http,
            connect(reached) as client,
        ):
            items(http.get("/recommendations/u1"))
            server = client.info()["process_id"]
            os.kill(server, signal.SIGSTOP)
            try:
                away = eventually(http, "/recommendations/u1", 503)
            finally:
                os.kill(server, signal.SIGCONT)
            assert away.headers["retry-after"]
            assert items(eventually(http, "/recommendations/u1", 200))


def test_a_killed_store_is_found_again_without_a_restart(
    settings: Settings, clock: FixedClock
) -> None:
    own = msgspec.structs.replace(settings, redis_url="")
    with embedded_redis(own) as redis_url:
        reached = msgspec.structs.replace(own, redis_url=redis_url)
        with connect(reached) as client:
            exported(reached, client, clock)
            client.save()
            with serving(reached, clock) as http:
                items(http.get("/recommendations/u1"))
                os.kill(client.info("server")["process_id"], signal.SIGKILL)
                back = eventually(http, "/recommendations/u1", 200)
                assert items(back) == LISTS["u1"][:20]


def test_the_app_starts_while_the_store_is_away(
    settings: Settings, clock: FixedClock
) -> None:
    away = msgspec.structs.replace(settings, redis_url="redis://127.0.0.1:1/0")
    with serving(away, clock) as http:
        answer = http.get("/recommendations/u1")
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert "127.0.0.1:1" in answer.json()["detail"]
        assert http.get("/healthz").status_code == 200
        assert http.get("/readyz").status_code == 503


def packed_list(ordinals: list[int], made: datetime, ends: datetime) -> bytes:
    (value,) = encode_lists(
        np.full((1, 12), 7, np.uint8),
        np.array([microseconds(made)]),
        microseconds(ends),
        np.array([len(ordinals)]),
        np.array(ordinals, np.uint32),
        np.ones(len(ordinals), np.float32),
    )
    return value


def test_the_newer_of_base_and_fresh_holds(
    settings: Settings, client: redis.Redis, clock: FixedClock, keys: Keys
) -> None:
    build_id = exported(settings, client, clock, lists={"u1": ["a", "b"]})
    fresh = keys.fresh("u1", "homepage", build_id)
    hour, half = timedelta(hours=1), timedelta(minutes=30)
    cases = [
        (clock.at, clock.at + half, ["b"]),
        (clock.at - hour, clock.at - half, ["a", "b"]),  # it has run out
        (AS_OF - hour, clock.at + half, ["a", "b"]),  # base is newer
    ]
    with serving(settings, clock) as http:
        for made, ends, expected in cases:
            client.set(fresh, packed_list([1], made, ends), ex=1000)
            assert items(http.get("/recommendations/u1")) == expected


def test_a_list_that_cannot_be_read_gives_way_and_is_counted(
    settings: Settings, client: redis.Redis, clock: FixedClock, keys: Keys
) -> None:
    build_id = exported(settings, client, clock)
    unknown = packed_list([9999], clock.at, clock.at + timedelta(hours=1))
    with serving(settings, clock) as http:
        for value in (b"torn", unknown):
            client.set(keys.base("u1", "homepage", build_id), value, ex=1000)
            assert items(http.get("/recommendations/u1")) == COLD_ITEMS
        metrics = http.get("/metrics").text
    assert 'feedloop_lists_unreadable_total{surface="homepage"} 2.0' in metrics
    assert (
        'feedloop_lists_served_total{source="cold",surface="homepage"} 2.0' in metrics
    )
    # generated at AS_OF, one hour before the clock
    assert 'feedloop_list_age_seconds{surface="homepage"} 3600.0' in metrics


def test_two_builds_side_by_side_and_the_pointer_back(
    settings: Settings, client: redis.Redis, clock: FixedClock, keys: Keys
) -> None:
    first = exported(settings, client, clock, lists={"u1": ["old"]})
    day = timedelta(days=1)
    exported(settings, client, clock, as_of=AS_OF + day, lists={"u1": ["new"]})
    with serving(settings, clock) as http:
        assert items(http.get("/recommendations/u1")) == ["new"]
        flip(client, keys, ["homepage"], first, clock.now(), force=True)
        deadline = time.monotonic() + 20
        while items(http.get("/recommendations/u1")) != ["old"]:
            assert time.monotonic() < deadline


def test_features_that_have_run_out_are_defaults(
    settings: Settings, client: redis.Redis, clock: FixedClock
) -> None:
    exported(settings, client, clock)
    clock.at += timedelta(days=3)
    with running(create_app(settings, clock)) as url:
        body = httpx.get(f"{url}/features/user/u1", headers=WRITE).json()
    assert body["as_of"] == "2026-03-01T03:00:00Z"
    assert body["features"]["user_ctr_30d"] == 0.0


def test_a_key_that_asks_too_often_is_told_to_wait(
    settings: Settings, client: redis.Redis, clock: FixedClock
) -> None:
    exported(settings, client, clock)
    limited = msgspec.structs.replace(settings, rate_limit_per_s=1)
    with serving(limited, clock) as http:
        answer = eventually(http, "/recommendations/u1", 429)
        assert answer.headers["retry-after"] == "1"


def test_a_store_of_another_layout_is_not_served(
    settings: Settings, client: redis.Redis, clock: FixedClock, keys: Keys
) -> None:
    exported(settings, client, clock)
    client.hset(keys.meta(), "layout", "0")
    with serving(settings, clock) as http:
        answer = http.get("/recommendations/u1")
        assert answer.status_code == 503
        assert "layout '0'" in answer.json()["detail"]
