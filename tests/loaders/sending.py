"""Messages whose rows are known, and what the tables then hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from pyiceberg.catalog import Catalog

from feedloop.contracts.log import EventLog, Message
from feedloop.settings import Settings
from loaders.iceberg import open_catalog, open_table
from loaders.loader import LoadReport

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
"""What the clock says, unless a test moves it."""
TOPIC = "t1.events"


def counts(report: LoadReport) -> tuple[int, int, int]:
    return report.rows, report.dead_letters, report.duplicates


def event(number: int, **fields: Any) -> dict[str, Any]:
    """Event ``e<number>``, a minute after the one before."""
    return {
        "event_id": f"e{number}",
        "user_id": f"u{number % 5}",
        "item_id": f"i{number % 3}",
        "event_type": "click",
        "occurred_at": NOW - timedelta(days=2) + timedelta(minutes=number),
    } | fields


def message(fields: dict[str, Any], at: datetime = NOW) -> Message:
    return Message(fields["user_id"], msgspec.json.encode(fields), at)


def send(log: EventLog, settings: Settings, *events: dict[str, Any]) -> None:
    log.append(settings.topic("events"), [message(fields) for fields in events])


def rows(
    settings: Settings, name: str, catalog: Catalog | None = None
) -> list[dict[str, Any]]:
    """Every row of a raw table."""
    table = open_table(catalog or open_catalog(settings), settings, name)
    found: list[dict[str, Any]] = table.scan().to_arrow().to_pylist()
    return found


def event_ids(settings: Settings) -> list[str]:
    return sorted(row["event_id"] for row in rows(settings, "events"))
