"""What an import left behind: in the log and in the raw tables."""

from __future__ import annotations

from typing import Any

import msgspec

from feedloop.clock import FixedClock
from feedloop.contracts.log import EVENTS
from feedloop.settings import Settings
from loaders.iceberg import open_catalog
from loaders.log import open_log


def in_log(settings: Settings, clock: FixedClock, stream: str) -> list[dict[str, Any]]:
    """The messages of a stream, with the log's key and time."""
    log = open_log(settings, clock)
    records = log.read(settings.topic(stream), {}, 100_000).records
    return [
        msgspec.json.decode(record.value or b"null")
        | {"~key": record.key, "~ms": record.timestamp_ms}
        for record in records
    ]


def in_table(settings: Settings, table: str) -> list[dict[str, Any]]:
    loaded = open_catalog(settings).load_table((settings.raw_schema, table))
    rows: list[dict[str, Any]] = loaded.scan().to_arrow().to_pylist()
    return rows


def nothing_was_sent(settings: Settings, clock: FixedClock) -> bool:
    return open_log(settings, clock).state(settings.topic(EVENTS)) is None
