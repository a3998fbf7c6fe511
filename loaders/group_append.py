"""Many requests, few appends: what waits together is stored together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from feedloop.contracts.log import Message
from feedloop.errors import LogUnavailable, PartlyStored

ANSWER_S = 1.5
"""After how long whoever waits is told that the log is away."""
PACE_S = 0.005
"""How long after an append began the next one to its topic begins at the earliest."""
MOST_AT_ONCE = 10_000
BYTES_AT_ONCE = 4 << 20
MOST_WAITING = 50_000
BYTES_WAITING = 64 << 20


class Watch(Protocol):
    """Who hears of every append."""

    def appended(self, topic: str, messages: int, seconds: float) -> None: ...

    def failed(self, topic: str, error: BaseException) -> None: ...


class _Waiting(NamedTuple):
    topic: str
    messages: Sequence[Message]
    size: int
    until: float
    stored: asyncio.Future[None]


class GroupAppend:
    """Calls ``append`` from one thread, on behalf of one event loop.

    Whoever comes while the log is idle is served at once and alone; what comes
    while it is busy, or before ``PACE_S`` are over, is appended together, so that
    an append's cost (a sync, a round trip) is shared the more the busier it is.
    Without that pace a log that answers within a millisecond or two is sent a
    few messages at a time, and a core is spent on round trips at half the load.

    Nobody waits longer than ``ANSWER_S``, whatever ``append`` does meanwhile.
    """

    def __init__(
        self, append: Callable[[str, Sequence[Message]], None], watch: Watch
    ) -> None:
        self._append = append
        self._watch = watch
        self._queue: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="append")
        self._busy: asyncio.Task[None] | None = None
        self.waiting = 0
        """Messages that are held here: not stored yet, or not known to be."""
        self._bytes = 0
        self._last = ("", float("-inf"))
        """The last append's topic and when it began, as the loop's clock has it."""

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Return once the log has ``messages``.

        Raises ``LogUnavailable``, also where too many wait already, and
        ``PartlyStored`` where the log is known to have some of them.
        """
        size = sum([len(message.value) for message in messages])
        if (
            self.waiting + len(messages) > MOST_WAITING
            or self._bytes + size > BYTES_WAITING
        ):
            raise LogUnavailable(
                f"{self.waiting} events wait for the log already; send this again "
                "in a moment."
            )
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[None] = loop.create_future()
        until = loop.time() + ANSWER_S
        self._queue.append(_Waiting(topic, messages, size, until, stored))
        self.waiting += len(messages)
        self._bytes += size
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
            last_topic, last_begun = self._last
            if self._queue[0].topic == last_topic:
                await asyncio.sleep(last_begun + PACE_S - loop.time())
            group = self._next_group()
            messages = [message for one in group for message in one.messages]
            topic = group[0].topic
            begun = loop.time()
            self._last = (topic, begun)
            appended = loop.run_in_executor(self._thread, self._append, topic, messages)
            while not appended.done():
                # whoever comes meanwhile has all of ANSWER_S
                patience = min(self._first_deadline(group) - loop.time(), ANSWER_S)
                await asyncio.wait([appended], timeout=max(0.0, patience))
                self._give_up(group, loop.time())
            self._let_go(group)
            error = appended.exception()
            _settle(group, error)
            if error is None:
                self._watch.appended(topic, len(messages), loop.time() - begun)
            else:
                self._watch.failed(topic, error)
        self._busy = None

    def _next_group(self) -> list[_Waiting]:
        """The requests at the head of the queue that go to one topic."""
        first = self._queue.popleft()
        group = [first]
        count, size = len(first.messages), first.size
        while self._queue and self._queue[0].topic == first.topic:
            count += len(self._queue[0].messages)
            size += self._queue[0].size
            # or the first of them would wait too long
            if count > MOST_AT_ONCE or size > BYTES_AT_ONCE:
                break
            group.append(self._queue.popleft())
        return group

    def _first_deadline(self, group: Iterable[_Waiting]) -> float:
        """Of all who wait; they came in this order."""
        for one in group:
            if not one.stored.done():
                return one.until
        return self._queue[0].until if self._queue else float("inf")

    def _give_up(self, group: Iterable[_Waiting], now: float) -> None:
        """Tell those whose time is up. What was handed to the log may yet be
        stored; what was not is dropped."""
        late = [one for one in group if one.until <= now]
        while self._queue and self._queue[0].until <= now:
            dropped = self._queue.popleft()
            self._let_go([dropped])
            late.append(dropped)
        _settle(
            late,
            LogUnavailable(
                f"The log has not answered for {ANSWER_S} s; send this again."
            ),
        )

    def _let_go(self, group: Iterable[_Waiting]) -> None:
        for one in group:
            self.waiting -= len(one.messages)
            self._bytes -= one.size


def _settle(group: Iterable[_Waiting], error: BaseException | None) -> None:
    """Tell each of ``group`` what became of its own messages."""
    at = 0
    for one in group:
        begin, at = at, at + len(one.messages)
        if one.stored.done():
            continue  # it was told already, or its client has gone
        if error is None:
            one.stored.set_result(None)
        elif not isinstance(error, LogUnavailable):
            one.stored.set_exception(error)
        else:
            kept = error.stored[begin:at] if isinstance(error, PartlyStored) else ()
            if kept and all(kept):
                one.stored.set_result(None)
            elif any(kept):
                one.stored.set_exception(PartlyStored(str(error), kept))
            else:
                one.stored.set_exception(LogUnavailable(str(error)))
