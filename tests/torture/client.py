"""Phones: they send until they are told 202, however often it takes."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.torture.ledger import Body, Ledger

COLLECT = {"X-API-Key": "dev-collect"}
WRITE = {"X-API-Key": "dev-write"}
BEFORE = datetime(2026, 3, 1, tzinfo=UTC)
"""All events are older than any clock of a run: none lies ahead of the log."""
DAYS = 6
USERS, ITEMS = 50, 20
TIMEOUT_S = 4.0
BACK_OFF_S = 0.2
AGAIN, OTHER_BODY, KEYED, ITEM = 0.08, 0.04, 0.08, 0.05


def event(chance: random.Random, **fields: Any) -> Body:
    at = BEFORE - timedelta(seconds=chance.randrange(DAYS * 86_400))
    return {
        "event_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "user_id": f"u{chance.randrange(USERS)}",
        "item_id": f"i{chance.randrange(ITEMS)}",
        "event_type": chance.choice(("view", "click", "like")),
        "occurred_at": at.isoformat(),
        "context": {"device": "phone", "session_id": f"s{chance.randrange(1000)}"},
    } | fields


@dataclass
class Phones:
    """Some threads, each a client that sends about ``rate`` events a second."""

    ledger: Ledger
    collectors: Sequence[str]
    seed: int
    rate: float
    count: int = 3
    answers: Counter[str] = field(default_factory=Counter)
    resent: int = 0
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(self.count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send nothing new; returns once all that was sent is acknowledged."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        try:
            with httpx.Client(timeout=TIMEOUT_S) as http:
                _Phone(self, http, random.Random(f"{self.seed} {number}")).use()
        except Exception as error:
            self.errors.append(repr(error))
            raise

    def is_stopping(self, seconds: float) -> bool:
        return self._stopping.wait(seconds)

    def count_answer(self, answer: str, again: bool) -> None:
        with self._lock:
            self.answers[answer] += 1
            self.resent += again


class _Phone:
    def __init__(
        self, phones: Phones, http: httpx.Client, chance: random.Random
    ) -> None:
        self._phones = phones
        self._ledger = phones.ledger
        self._http = http
        self._chance = chance
        self._sent: list[Body] = []
        self._keys = 0

    def use(self) -> None:
        while True:
            bodies = self._some()
            self._send(bodies)
            if self._chance.random() < KEYED:
                self._send_with_a_key()
            if self._chance.random() < ITEM:
                self._put_item()
            share = self._phones.count / self._phones.rate
            if self._phones.is_stopping(len(bodies) * share):
                return

    def _some(self) -> list[Body]:
        chance = self._chance
        bodies = [event(chance) for _ in range(chance.randint(1, 30))]
        for body in bodies[:]:
            draw = chance.random()
            if draw < AGAIN and self._sent:
                bodies.append(chance.choice(self._sent))
            elif draw < AGAIN + OTHER_BODY:
                first = chance.choice([body, *self._sent[-50:]])
                owner = {"user_id": first["user_id"]} if chance.random() < 0.7 else {}
                bodies.append(event(chance, event_id=first["event_id"], **owner))
        self._sent = (self._sent + bodies)[-500:]
        return bodies

    def _send(self, bodies: list[Body]) -> None:
        self._ledger.sending(bodies)
        left = bodies
        while left:
            answer = self._request("POST", "/events", json=left, headers=COLLECT)
            results = answer["results"]
            self._ledger.told([one["event_id"] for one in results if one["accepted"]])
            refused = [one for one in results if one.get("field")]
            if refused:
                raise AssertionError(f"a good event was refused: {refused[0]}")
            left = [
                body
                for body, one in zip(left, results, strict=True)
                if not one["accepted"]
            ]

    def _send_with_a_key(self) -> None:
        """An event without an id, that the key makes the same one each time."""
        body = event(self._chance)
        del body["event_id"]
        key = f"{self._chance.getrandbits(64)}"
        headers = COLLECT | {"Idempotency-Key": key}
        answer = self._request("POST", "/events", json=body, headers=headers)
        self._ledger.sending([body | {"event_id": answer["event_id"]}])
        self._ledger.told([answer["event_id"]])

    def _put_item(self) -> None:
        item_id = f"i{self._chance.randrange(ITEMS)}"
        title = f"version {self._chance.getrandbits(64)}"
        body = {
            "category": "news",
            "published_at": "2026-01-01T00:00:00Z",
            "title": title,
        }
        self._request("PUT", f"/items/{item_id}", json=body, headers=WRITE)
        self._ledger.told_item(item_id, title)

    def _request(self, method: str, path: str, **sent: Any) -> dict[str, Any]:
        """The body of a 202, from whichever collector gives one."""
        again = False
        while True:
            collector = self._chance.choice(self._phones.collectors)
            try:
                answer = self._http.request(method, collector + path, **sent)
                said = str(answer.status_code)
            except httpx.TransportError as error:
                answer, said = None, type(error).__name__
            self._phones.count_answer(said, again)
            if answer is not None and answer.status_code == 202:
                body: dict[str, Any] = answer.json()
                return body
            if answer is not None and answer.status_code < 500:
                raise AssertionError(f"{answer.status_code}: {answer.text}")
            again = True
            time.sleep(BACK_OFF_S * (0.5 + self._chance.random()))
