"""How events get from phones to the collector: at once, late, twice, or
spoiled; and the count of what was sent and what was answered."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import count
from typing import TypeVar

import msgspec

from feedloop.errors import FeedloopError, StepFailed
from simulator.client import Answer, Client
from simulator.messages import RUBBISH, Event, Session, seeded_uuid
from simulator.plan import HOUR_S

ACCEPTED = 202
MALFORMED = (400, 422)
"""What a body is answered that is no JSON, or no event."""
BULK = 500
"""About how many events a request has where a backend sends for many phones."""
KEPT_REFUSALS = 5

Result = TypeVar("Result")
Arrived = Callable[[Session], None]


class Tally(msgspec.Struct):
    """What the app sent and what it was told, in events.

    ``sent`` and ``acknowledged`` count an event once, however often it went
    out; ``sent_again`` are repetitions that were acknowledged too. ``refused``
    are good events that the collector did not take, ``held`` those that are
    still on phones, ``late`` those that were or are held.
    """

    sent: int = 0
    sent_again: int = 0
    acknowledged: int = 0
    refused: int = 0
    rubbish_sent: int = 0
    rubbish_refused: int = 0
    held: int = 0
    late: int = 0
    retries: int = 0


class Refusal(msgspec.Struct, frozen=True):
    """A body that the collector refused, and its answer."""

    sent: str
    status: int
    answer: str


class _BatchAnswer(msgspec.Struct):
    accepted: int


def accepted_of(answer: Answer) -> int:
    """How many events of a batch the collector says that it has."""
    if answer.status != ACCEPTED:
        return 0
    try:
        return msgspec.json.decode(answer.body, type=_BatchAnswer).accepted
    except msgspec.DecodeError as error:
        raise StepFailed(
            f"The collector's answer to a batch is not one ({error}): "
            f"{answer.body.decode(errors='replace')}; is something else listening "
            "there?"
        ) from error


class Outbox:
    """``arrived`` hears of each session whose events have been acknowledged."""

    def __init__(self, arrived: Arrived) -> None:
        self.tally = Tally()
        self.refusals: list[Refusal] = []
        self._arrived = arrived
        self._phones: list[tuple[float, int, Session, bool]] = []
        self._numbers = count()
        self._rubbish = 0

    async def send(
        self, client: Client, sessions: Iterable[Session], now_s: float
    ) -> None:
        """Send each session's events in a request of their own, or hold them
        where the phone is offline beyond ``now_s``."""
        online = []
        for session in sessions:
            if session.due_s > now_s:
                self._hold(session, session.due_s, again=False)
                self.tally.late += len(session.events)
            elif session.events:
                online.append(session)
        await gather([self._first_time(client, [one], now_s) for one in online])
        self._count_held()

    async def send_bulk(self, client: Client, sessions: Sequence[Session]) -> None:
        """Send what a backend collected from many phones, BULK at a time."""
        together: list[Session] = []
        size = 0
        for session in sessions:
            if not session.events:
                continue
            together.append(session)
            size += len(session.events)
            if size >= BULK:
                await self._first_time(client, together, float("inf"))
                together, size = [], 0
        if size:
            await self._first_time(client, together, float("inf"))

    async def release(self, client: Client, now_s: float) -> None:
        """Send what phones held until now, and what goes out once more."""
        first: list[Session] = []
        again: list[Session] = []
        while self._phones and self._phones[0][0] <= now_s:
            _, _, session, repeated = heapq.heappop(self._phones)
            (again if repeated else first).append(session)
        await gather(
            [self._first_time(client, [one], now_s) for one in first]
            + [self._again(client, one) for one in again]
        )
        self._count_held()

    async def spoil(self, client: Client, session: Session) -> None:
        """Send something malformed, as a broken app does."""
        self._rubbish += 1
        spoil = RUBBISH[self._rubbish % len(RUBBISH)]
        event: Event = session.events[0]
        event = event | {"event_id": str(seeded_uuid(f"bad {event['event_id']}"))}
        body = spoil(event)
        self.tally.rubbish_sent += 1
        answer = await client.send_bytes(body)
        if answer.status in MALFORMED:
            self.tally.rubbish_refused += 1
        self._keep_refusal(body, answer)

    async def _first_time(
        self, client: Client, sessions: Sequence[Session], now_s: float
    ) -> None:
        events = [event for session in sessions for event in session.events]
        self.tally.sent += len(events)
        answer = await client.send_events(events)
        accepted = accepted_of(answer)
        self.tally.acknowledged += accepted
        self.tally.refused += len(events) - accepted
        if accepted < len(events):
            self._keep_refusal(msgspec.json.encode(events), answer)
        if not accepted:
            return
        for session in sessions:
            self._arrived(session)
            if session.sent_twice:
                # The answer was lost on its way: the phone tries once more.
                self._hold(session, now_s + HOUR_S, again=True)

    async def _again(self, client: Client, session: Session) -> None:
        answer = await client.send_events(session.events)
        self.tally.sent_again += accepted_of(answer)

    def _hold(self, session: Session, due_s: float, *, again: bool) -> None:
        heapq.heappush(self._phones, (due_s, next(self._numbers), session, again))

    def _count_held(self) -> None:
        self.tally.held = sum(
            len(session.events) for _, _, session, again in self._phones if not again
        )

    def _keep_refusal(self, body: bytes, answer: Answer) -> None:
        if len(self.refusals) < KEPT_REFUSALS:
            self.refusals.append(
                Refusal(
                    body.decode(), answer.status, answer.body.decode(errors="replace")
                )
            )


async def gather(calls: Sequence[Awaitable[Result]]) -> list[Result]:
    """All results in order. The first error cancels what still runs; where it
    is one of Feedloop's it is raised itself, as a person is to read it."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_coroutine(call)) for call in calls]
    except ExceptionGroup as errors:
        for error in errors.exceptions:
            if isinstance(error, FeedloopError):
                raise error from errors
        raise
    return [task.result() for task in tasks]


async def _coroutine(call: Awaitable[Result]) -> Result:
    return await call
