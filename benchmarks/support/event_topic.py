"""Events of about 500 bytes in a topic, as an app's sessions make them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from feedloop.contracts.lists import RequestSigner, rec_id
from feedloop.contracts.log import EventLog, Message
from feedloop.settings import Settings

BEGIN = datetime(2026, 1, 8, tzinfo=UTC)
DAY_MS = 86_400_000
USERS = 50_000
ITEMS = 100_000
PER_RESPONSE = 10
LATE_SHARE = 0.02
LATE_DAYS = 6
AT_ONCE = 20_000

VALUE = (
    '{"event_id":"%s","user_id":"%s","item_id":"article_%06d","event_type":"%s",'
    '"occurred_at":"%s","context":{"session_id":"%032x","device":"%s",'
    '"surface":"homepage","page_position":%d,"request_id":"%s",'
    '"model_version":"als-xgb-20260107","app_version":"7.21.3","locale":"pt-BR",'
    '"connection":"wifi","viewport":"390x844"}}'
)


def messages(count: int, signing_key: str, first_day: int = 0) -> Iterator[Message]:
    """``count`` events of one day in the order of the log's time.

    Ten share a response, whose id is signed. A fiftieth comes up to six days
    late, from phones that were offline.
    """
    chance = random.Random(first_day)
    signer = RequestSigner(signing_key)
    begin = BEGIN + timedelta(days=first_day)
    user = request = device = ""
    session = 0
    for number in range(count):
        if number % PER_RESPONSE == 0:
            user = f"usr_{chance.randrange(USERS):010x}"
            build = "als-xgb-20260107@20260108T000000000000Z"
            request = signer.sign(rec_id(user, "homepage", build), user)
            session = chance.getrandbits(128)
            device = chance.choice(("ios", "android", "web"))
        logged = begin + timedelta(milliseconds=number * DAY_MS // count)
        delay_ms = chance.randrange(3000)
        if chance.random() < LATE_SHARE:
            delay_ms = chance.randrange(LATE_DAYS * DAY_MS)
        occurred = logged - timedelta(milliseconds=delay_ms)
        ident = f"{chance.getrandbits(128):032x}"
        value = VALUE % (
            f"{ident[:8]}-{ident[8:12]}-{ident[12:16]}-{ident[16:20]}-{ident[20:]}",
            user,
            chance.randrange(ITEMS),
            "impression" if number % PER_RESPONSE < 7 else "click",
            occurred.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            session,
            device,
            number % PER_RESPONSE,
            request,
        )
        yield Message(user, value.encode(), logged)


def fill(log: EventLog, settings: Settings, count: int, first_day: int = 0) -> float:
    """Append ``count`` events; their mean size in bytes."""
    topic = settings.topic("events")
    some: list[Message] = []
    size = 0
    for message in messages(count, settings.signing_key, first_day):
        some.append(message)
        size += len(message.value or b"")
        if len(some) == AT_ONCE:
            log.append(topic, some)
            some = []
    log.append(topic, some)
    return size / count
