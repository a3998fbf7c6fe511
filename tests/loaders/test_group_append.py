"""How appends are paced; what waits, and for how long, is tried over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from feedloop.contracts.log import Message
from loaders import group_append
from loaders.group_append import GroupAppend
from tests.loaders.sending import NOW


class Unwatched:
    def appended(self, topic: str, messages: int, seconds: float) -> None: ...

    def failed(self, topic: str, error: BaseException) -> None:
        raise error


def test_what_comes_soon_after_an_append_goes_together_in_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_append, "PACE_S", 0.5)
    appended: list[tuple[str, list[str]]] = []

    def append(topic: str, messages: Sequence[Message]) -> None:
        appended.append((topic, [message.key for message in messages]))

    async def run() -> None:
        group = GroupAppend(append, Unwatched())

        def send(topic: str, key: str) -> asyncio.Task[None]:
            return asyncio.create_task(group.append(topic, [Message(key, b"", NOW)]))

        await send("events", "lone")
        second = send("events", "second")
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(appended) == 1  # though the log is idle
        await asyncio.gather(second, send("events", "third"))
        await send("items", "other")  # another topic's pace is its own
        await group.close()

    asyncio.run(run())
    assert appended == [
        ("events", ["lone"]),
        ("events", ["second", "third"]),
        ("items", ["other"]),
    ]
