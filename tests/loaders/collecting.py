"""A collector over real HTTP, and what the log then holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import msgspec

from feedloop.clock import FixedClock
from feedloop.contracts.log import EventLog
from feedloop.server import running
from feedloop.settings import Settings
from loaders.collector import create_app
from loaders.log import open_log
from tests.loaders.sending import NOW

COLLECT = {"X-API-Key": "dev-collect"}
WRITE = {"X-API-Key": "dev-write"}
EVENT = {
    "event_id": "e1",
    "user_id": "u1",
    "item_id": "i1",
    "event_type": "click",
    "occurred_at": "2026-03-01T11:00:00Z",
}
ITEM = {"category": "news", "published_at": "2026-02-01T00:00:00Z"}
USER = {"created_at": "2026-02-01T00:00:00Z"}


@contextmanager
def serving(
    settings: Settings, clock: FixedClock, log: EventLog | None = None
) -> Iterator[httpx.Client]:
    with closing(log or open_log(settings, clock)) as chosen:
        app = create_app(settings, chosen, clock)
        with running(app) as url, httpx.Client(base_url=url, headers=COLLECT) as client:
            yield client


def stored(settings: Settings, stream: str = "events") -> list[dict[str, Any]]:
    """What the log holds, in the order of time."""
    with closing(open_log(settings, FixedClock(NOW))) as log:
        batch = log.read(settings.topic(stream), {}, 10_000)
    return [msgspec.json.decode(record.value or b"null") for record in batch.records]


def problem_of(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert isinstance(body["detail"], str)
    assert body["detail"]
    return body
