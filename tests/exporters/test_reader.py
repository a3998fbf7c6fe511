"""Concurrent reads share a round trip and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
import pytest
import redis

from exporters.reader import CoalescedReader, Pair
from exporters.redis_store import connect_async
from feedloop.errors import StoreUnavailable
from feedloop.settings import Settings

T = TypeVar("T")


def run(settings: Settings, use: Callable[[CoalescedReader], Awaitable[T]]) -> T:
    async def with_reader() -> T:
        async with connect_async(settings) as client:
            return await use(CoalescedReader(settings, client))

    return asyncio.run(with_reader())


def mgets(client: redis.Redis) -> int:
    stats = client.info("commandstats")
    return int(stats["cmdstat_mget"]["calls"]) if "cmdstat_mget" in stats else 0


def test_reads_of_one_turn_are_one_mget(
    settings: Settings, client: redis.Redis
) -> None:
    for number in range(50):
        client.set(f"b{number}", f"base {number}", ex=1000)
        if number % 2:
            client.set(f"f{number}", f"fresh {number}", ex=1000)

    async def read_all(reader: CoalescedReader) -> list[Pair]:
        reads = (
            reader.read(f"b{number}".encode(), f"f{number}".encode())
            for number in range(50)
        )
        return list(await asyncio.gather(*reads))

    before = mgets(client)
    assert run(settings, read_all) == [
        Pair(
            f"base {number}".encode(),
            f"fresh {number}".encode() if number % 2 else None,
        )
        for number in range(50)
    ]
    assert mgets(client) == before + 1


def test_reads_one_after_the_other_are_not_held_up(
    settings: Settings, client: redis.Redis
) -> None:
    client.set("b", "1", ex=1000)

    async def read_twice(reader: CoalescedReader) -> list[Pair]:
        return [await reader.read(b"b", b"f"), await reader.read(b"b", b"f")]

    before = mgets(client)
    assert run(settings, read_twice) == [Pair(b"1", None)] * 2
    assert mgets(client) == before + 2


def test_a_client_that_goes_away_takes_nobody_along(
    settings: Settings, client: redis.Redis
) -> None:
    client.set("b", "1", ex=1000)

    async def cancel_one(reader: CoalescedReader) -> Pair:
        gone = asyncio.create_task(reader.read(b"b", b"f"))
        stays = asyncio.create_task(reader.read(b"b", b"f"))
        await asyncio.sleep(0)  # both have asked
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await stays

    assert run(settings, cancel_one) == Pair(b"1", None)


def test_a_store_that_is_away_is_everybodys_error(settings: Settings) -> None:
    away = msgspec.structs.replace(settings, redis_url="redis://127.0.0.1:1/0")

    async def read_two(reader: CoalescedReader) -> list[Pair | BaseException]:
        reads = (reader.read(b"b", b"f") for _ in range(2))
        return list(await asyncio.gather(*reads, return_exceptions=True))

    assert [type(found) for found in run(away, read_two)] == [StoreUnavailable] * 2
