"""What an on-call person sees of the collector."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from feedloop.contracts.catalogue import Item, User
from feedloop.contracts.events import Event, PromotedContext
from feedloop.errors import PartlyStored
from feedloop.telemetry import log_event

FIELDS = frozenset(
    (
        *Event.__struct_fields__,
        *(f"context.{name}" for name in PromotedContext.__struct_fields__),
        *Item.__struct_fields__,
        *User.__struct_fields__,
    )
)


class CollectorMetrics:
    """``waiting`` says how many messages wait for the log."""

    def __init__(
        self,
        registry: CollectorRegistry,
        waiting: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._away_since: float | None = None
        self._stored = Counter(
            "feedloop_messages_stored",
            "Messages that the log has",
            ("topic",),
            registry=registry,
        )
        self._refused = Counter(
            "feedloop_messages_refused",
            "Events, items and users that break their contract, by the field that "
            "does (message: the whole; unknown: one the contract doesn't know)",
            ("stream", "field"),
            registry=registry,
        )
        self._unstored = Counter(
            "feedloop_messages_unstored",
            "Messages answered with 503: to be sent again",
            ("stream",),
            registry=registry,
        )
        self._failures = Counter(
            "feedloop_append_failures",
            "Appends that the log did not acknowledge in time, or not whole",
            ("topic",),
            registry=registry,
        )
        self._at_once = Histogram(
            "feedloop_append_messages",
            "Messages that went to the log in one append",
            buckets=(1, 3, 10, 30, 100, 300, 1000, 3000, 10000),
            registry=registry,
        )
        self._seconds = Histogram(
            "feedloop_append_seconds",
            "How long the log took for one append",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2),
            registry=registry,
        )
        Gauge(
            "feedloop_messages_waiting",
            "Messages that came and are not stored yet",
            registry=registry,
        ).set_function(waiting)
        Gauge(
            "feedloop_log_away_seconds",
            "For how long nothing could be stored; 0: it can, as far as is known",
            registry=registry,
        ).set_function(self._away_seconds)

    def appended(self, topic: str, messages: int, seconds: float) -> None:
        self._stored.labels(topic).inc(messages)
        self._at_once.observe(messages)
        self._seconds.observe(seconds)
        self.reached()

    def failed(self, topic: str, error: BaseException) -> None:
        if isinstance(error, PartlyStored):
            self._stored.labels(topic).inc(sum(error.stored))
        self._failures.labels(topic).inc()
        self.away(error)

    def refused(self, stream: str, field: str) -> None:
        known = field if field in FIELDS else "unknown"
        self._refused.labels(stream, known if field else "message").inc()

    def unstored(self, stream: str, messages: int) -> None:
        self._unstored.labels(stream).inc(messages)

    def away(self, error: BaseException) -> None:
        """The log did not do what it was asked to."""
        if self._away_since is None:
            self._away_since = self._monotonic()
            log_event("collector", "log away", reason=str(error))

    def reached(self) -> None:
        if self._away_since is not None:
            log_event("collector", "log back", away_s=round(self._away_seconds(), 1))
            self._away_since = None

    def _away_seconds(self) -> float:
        since = self._away_since
        return 0.0 if since is None else self._monotonic() - since
