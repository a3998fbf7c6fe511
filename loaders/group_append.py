"""Many requests, few appends: what waits together is stored together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from feedloop.contracts.log import Message
from feedloop.errors import LogUnavailable

MOST_AT_ONCE = 10_000
MOST_WAITING = 50_000


class _Waiting(NamedTuple):
    topic: str
    messages: Sequence[Message]
    stored: asyncio.Future[None]


class GroupAppend:
    """Calls ``append`` from one thread, on behalf of one event loop.

    Whoever comes while the log is idle is served at once and alone; what comes
    while it is busy is appended together when it is free again, so that an
    append's cost (a sync, a round trip) is shared the more the busier it is.

    ``on_append`` hears of every append: its messages and its topic.
    """

    def __init__(
        self,
        append: Callable[[str, Sequence[Message]], None],
        on_append: Callable[[int, str], None],
    ) -> None:
        self._append = append
        self._on_append = on_append
        self._queue: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="append")
        self._busy: asyncio.Task[None] | None = None
        self.waiting = 0
        """Messages that are not stored yet."""

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Return once the log has ``messages``. Raises ``LogUnavailable``, also
        where too many wait already."""
        if self.waiting + len(messages) > MOST_WAITING:
            raise LogUnavailable(
                f"{self.waiting} events wait for the log already; send this again "
                "in a moment."
            )
        stored = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(topic, messages, stored))
        self.waiting += len(messages)
        if self._busy is None:
            self._busy = asyncio.create_task(self._drain())
        await stored

    async def close(self) -> None:
        """Finish what was begun."""
        if self._busy is not None:
            await self._busy
        self._thread.shutdown()

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            group = self._next_group()
            messages = [message for one in group for message in one.messages]
            topic = group[0].topic
            appended = loop.run_in_executor(self._thread, self._append, topic, messages)
            await asyncio.wait([appended])
            error = appended.exception()
            self.waiting -= len(messages)
            for one in group:
                if one.stored.cancelled():
                    continue  # its client has gone
                if error is None:
                    one.stored.set_result(None)
                else:
                    one.stored.set_exception(error)
            if error is None:
                self._on_append(len(messages), topic)
        self._busy = None

    def _next_group(self) -> list[_Waiting]:
        """The requests at the head of the queue that go to one topic."""
        group = [self._queue.popleft()]
        size = len(group[0].messages)
        while self._queue and self._queue[0].topic == group[0].topic:
            size += len(self._queue[0].messages)
            if size > MOST_AT_ONCE:  # or the first of them would wait too long
                break
            group.append(self._queue.popleft())
        return group
