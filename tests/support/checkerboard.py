"""A checkerboard of tastes: data whose right answers are known beforehand.

People 0…n-1 and items 0…m-1; a person likes the items of their own parity and
nothing else, and has left a few of them out: those must lead their list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from feedloop.contracts.lists import RequestSigner
from feedloop.contracts.log import EVENTS, ITEMS, USERS, EventLog, Message
from feedloop.settings import Settings

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 14
END = START + timedelta(days=DAYS)
SHOWN = 10
"""Of a list, from its head, to everybody."""
CATEGORIES = ("even", "odd")
COUNTRIES = ("EV", "OD")


def item(number: int, *, active: bool = True) -> dict[str, Any]:
    return {
        "item_id": f"i{number:03}",
        "category": CATEGORIES[number % 2],
        "published_at": START.isoformat(),
        "is_active": active,
        "title": f"Item {number}",
        "tags": [CATEGORIES[number % 2]],
    }


def user(number: int) -> dict[str, Any]:
    """Their country tells their parity."""
    return {
        "user_id": f"u{number:03}",
        "created_at": START.isoformat(),
        "country": COUNTRIES[number % 2],
    }


def left_out(person: int, number: int) -> bool:
    """Whether ``person`` has not touched this item of their own parity."""
    return (person // 2 * 7 + number // 2) % 5 == 0


def events(people: int, items: int) -> Iterator[dict[str, Any]]:
    """Two clicks on every item a person likes and hasn't left out, spread over
    the days."""
    for person in range(people):
        for number in range(person % 2, items, 2):
            if left_out(person, number):
                continue
            for visit in range(2):
                minutes = (person * 1733 + number * 577 + visit * 5003) % (DAYS * 1440)
                at = START + timedelta(minutes=minutes)
                yield event(f"e{person}-{number}-{visit}", person, number, at)


def event(
    event_id: str, person: int, number: int, at: datetime, kind: str = "click"
) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "user_id": f"u{person:03}",
        "item_id": f"i{number:03}",
        "event_type": kind,
        "occurred_at": at.isoformat(),
    }


def answers(
    settings: Settings, lists: Iterable[tuple[str, str, list[str]]]
) -> Iterator[dict[str, Any]]:
    """The day after END everybody sees the head of their list, and clicks its
    second item. ``lists``: user_id, rec_id, item_ids."""
    signer = RequestSigner(settings.signing_key)
    for user_id, rec_id, item_ids in lists:
        request_id = signer.sign(rec_id, user_id)
        for place, item_id in enumerate(item_ids[:SHOWN], start=1):
            at = END + timedelta(hours=6, minutes=place)
            context = {"request_id": request_id, "page_position": place}
            for kind in ("impression", "click") if place == 2 else ("impression",):
                name = f"{user_id}-{place}-{kind}"
                row = event(name, int(user_id[1:]), int(item_id[1:]), at, kind=kind)
                yield row | {"context": context}


def send_events(log: EventLog, settings: Settings, rows: list[dict[str, Any]]) -> None:
    """Append events; the log's clock says that they came when they occurred."""
    messages = [
        Message(
            row["user_id"],
            msgspec.json.encode(row),
            datetime.fromisoformat(row["occurred_at"]),
        )
        for row in rows
    ]
    log.append(settings.topic(EVENTS), messages)


def send_catalogue(
    log: EventLog,
    settings: Settings,
    items: list[dict[str, Any]],
    users: list[dict[str, Any]],
) -> None:
    for stream, key, rows in ((ITEMS, "item_id", items), (USERS, "user_id", users)):
        messages = [Message(row[key], msgspec.json.encode(row), START) for row in rows]
        if messages:
            log.append(settings.topic(stream), messages)
