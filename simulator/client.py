"""The app's side of HTTP: it sends events and catalogue records, reads lists,
and tries again where the answer says so."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx
import msgspec

from feedloop.errors import StepFailed
from feedloop.settings import Settings

CONCURRENCY = 16
TRIES = 20
LONGEST_WAIT_S = 5.0
TRY_AGAIN = frozenset({429, 503})


class ServedItem(msgspec.Struct, frozen=True):
    item_id: str


class ServedList(msgspec.Struct, frozen=True):
    """What the app uses of a recommendation's answer."""

    items: list[ServedItem]
    request_id: str
    model_version: str


@dataclass(frozen=True)
class Answer:
    """An answer that is no fault of the line: its status and its body."""

    status: int
    body: bytes


_events = msgspec.json.Encoder()
_list = msgspec.json.Decoder(ServedList)


def _first(keys: str) -> str:
    return keys.split(",", maxsplit=1)[0].strip()


class Client:
    """Sends at most CONCURRENCY requests at once to each of the two servers."""

    def __init__(
        self, settings: Settings, collector_url: str, server_url: str | None
    ) -> None:
        limits = httpx.Limits(
            max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY
        )
        self._collector = httpx.AsyncClient(
            base_url=collector_url, limits=limits, timeout=30
        )
        self._server = httpx.AsyncClient(
            base_url=server_url or collector_url, limits=limits, timeout=30
        )
        self._collect_key = _first(settings.collect_keys)
        self._write_key = _first(settings.write_keys)
        self._read_key = _first(settings.read_keys)
        self.retries = 0

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._collector.aclose()
        await self._server.aclose()

    async def send_events(self, events: Sequence[dict[str, Any]]) -> Answer:
        """``POST /events`` until it is accepted or refused for good."""
        return await self.send_bytes(_events.encode(events))

    async def send_bytes(self, body: bytes) -> Answer:
        """``POST /events`` with a body that need not be what it should be."""
        return await self._send("POST", "/events", body, self._collect_key)

    async def put(self, stream: str, key: str, record: dict[str, Any]) -> None:
        """``PUT /items/{id}`` or ``PUT /users/{id}``."""
        path = f"/{stream}/{key}"
        answer = await self._send("PUT", path, _events.encode(record), self._write_key)
        if answer.status >= 300:
            raise StepFailed(
                f"The collector refused {path} ({answer.status}: "
                f"{answer.body.decode(errors='replace')}); the app and the "
                "collector don't agree on the catalogue's contract."
            )

    async def recommendations(
        self, user_id: str, surface: str, limit: int
    ) -> ServedList | None:
        """The person's list, or None where the server has none to give now.

        No second try: a person doesn't wait, the app shows its own page.
        """
        answer = await self._once(
            self._server,
            "GET",
            f"/recommendations/{user_id}",
            params={"surface": surface, "limit": limit},
            headers={"X-API-Key": self._read_key},
        )
        if answer is None:
            return None
        if answer.status_code in TRY_AGAIN:
            return None
        if answer.status_code != 200:
            raise StepFailed(
                f"The serving API answered {answer.status_code} for {user_id}: "
                f"{answer.text}; check the read key and the server's version."
            )
        try:
            return _list.decode(answer.content)
        except msgspec.DecodeError as error:
            raise StepFailed(
                f"The serving API's answer for {user_id} is not a list: {error}."
            ) from error

    async def _send(self, method: str, path: str, body: bytes, key: str) -> Answer:
        headers = {"X-API-Key": key, "Content-Type": "application/json"}
        said = "the line broke"
        for _ in range(TRIES):
            answer = await self._once(
                self._collector, method, path, content=body, headers=headers
            )
            wait_s = 1.0
            if answer is not None:
                if answer.status_code in (401, 403):
                    raise StepFailed(
                        f"The collector doesn't take the app's key: {answer.text}; "
                        "give both the same FEEDLOOP_COLLECT_KEYS and "
                        "FEEDLOOP_WRITE_KEYS."
                    )
                if answer.status_code not in TRY_AGAIN:
                    return Answer(answer.status_code, answer.content)
                said = answer.text
                wait_s = _wait_s(answer.headers.get("Retry-After", ""))
            self.retries += 1
            await asyncio.sleep(wait_s)
        raise StepFailed(
            f"The collector did not take {path} in {TRIES} tries ({said}); see "
            "whether its log can be written."
        )

    @staticmethod
    async def _once(
        client: httpx.AsyncClient, method: str, path: str, **request: Any
    ) -> httpx.Response | None:
        """One request; None where the line broke, so that a client can't know
        whether it arrived."""
        try:
            return await client.request(method, path, **request)
        except httpx.ConnectError as error:
            raise StepFailed(
                f"Nothing answers at {client.base_url} ({error}); start `feedloop "
                "collect` and `feedloop serve`, or give their addresses."
            ) from error
        except httpx.TransportError:
            return None


def _wait_s(retry_after: str) -> float:
    """Seconds that the server asks for: a number, else one second."""
    try:
        return min(max(float(retry_after), 0.0), LONGEST_WAIT_S)
    except ValueError:
        return 1.0
