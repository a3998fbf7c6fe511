"""What whoever is on call wants to know of log and tables, and what to do.

Nothing is written, and nothing need be there: no table yet, or a log that is
away, is an answer too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, ancestors_of

from feedloop.clock import Clock
from feedloop.contracts.log import STREAMS, EventLog, TopicState
from feedloop.contracts.tables import ACCEPTED_LOSSES, DEAD_LETTERS, RAW_TABLES
from feedloop.errors import LogError, LogUnavailable, OffsetHistoryExpired
from feedloop.settings import Settings
from loaders.compaction import due
from loaders.expiry import expirable
from loaders.iceberg import Position, committed, open_catalog, open_table
from loaders.log import open_log
from loaders.losses import refuse
from loaders.maintenance import policy_of

LATE = timedelta(minutes=15)
"""A record that waits longer means that no loader runs, or that it is too slow."""
MANY_SNAPSHOTS = 100
DAY = timedelta(days=1)
SHOWN_LOSSES = 10
SHOWN_REASONS = 20


@dataclass(frozen=True)
class PartitionLag:
    """``seconds`` since the oldest record that waits came into the log."""

    partition: int
    loaded_to: int
    end: int
    records: int
    seconds: float


@dataclass(frozen=True)
class StreamStatus:
    """``last_load`` is None where it is not known, ``refused`` where all is
    well; ``partitions`` is empty where the log has no topic or is away."""

    stream: str
    load_seq: int | None
    last_load: datetime | None
    partitions: list[PartitionLag]
    refused: str | None


@dataclass(frozen=True)
class TableStatus:
    """Sizes in bytes. ``files_due`` is how many compaction would merge,
    ``snapshots_due`` how many would expire now."""

    table: str
    rows: int
    files: int
    bytes: int
    files_due: int
    snapshots: int
    snapshots_due: int
    last_commit: datetime | None


@dataclass(frozen=True)
class DeadLetterCount:
    stream: str
    field: str | None
    reason: str
    count: int


@dataclass(frozen=True)
class Status:
    """``log_away`` says why the log can't be reached; None: it can. ``dead``
    counts the last 24 hours of the log's time. ``advice`` is what to do, most
    urgent first; ``ok`` is False where loading can't go on by itself."""

    log_away: str | None
    streams: list[StreamStatus]
    tables: list[TableStatus]
    dead: list[DeadLetterCount]
    accepted_losses: list[dict[str, Any]]
    advice: list[str]

    @property
    def ok(self) -> bool:
        return self.log_away is None and not any(one.refused for one in self.streams)


def look(settings: Settings, clock: Clock, now: datetime) -> Status:
    """The status of a namespace. ``now`` is the system's clock, which dates
    commits; ``clock`` is Feedloop's own, which dates events."""
    catalog = open_catalog(settings)
    tables = {
        name: open_table(catalog, settings, name)
        for name in RAW_TABLES
        if catalog.table_exists((settings.raw_schema, name))
    }
    away: str | None = None
    streams = []
    with closing(open_log(settings, clock)) as log:
        for stream in STREAMS:
            try:
                found = _stream(settings, log, stream, tables.get(stream), clock)
            except LogUnavailable as error:
                away = str(error)
                found = _without_log(stream, tables.get(stream))
            streams.append(found)
    sizes = [_table(settings, name, one, now) for name, one in tables.items()]
    dead = _dead_letters(tables.get(DEAD_LETTERS), clock.now() - DAY)
    losses = _losses(tables.get(ACCEPTED_LOSSES))
    advice = list(_advice(settings, away, streams, sizes, dead))
    return Status(away, streams, sizes, dead, losses, advice)


# --- streams -----------------------------------------------------------------


def _stream(
    settings: Settings,
    log: EventLog,
    stream: str,
    table: Table | None,
    clock: Clock,
) -> StreamStatus:
    topic = settings.topic(stream)
    state = log.state(topic)
    try:
        start = _position(table, stream)
        refuse(settings, stream, state, start)
        partitions = [] if state is None else _lag(log, topic, state, start, clock)
    except LogUnavailable:
        raise
    except (OffsetHistoryExpired, LogError) as error:
        return StreamStatus(stream, None, None, [], str(error))
    return StreamStatus(
        stream, start.load_seq if start else None, _last_load(table), partitions, None
    )


def _without_log(stream: str, table: Table | None) -> StreamStatus:
    try:
        start = _position(table, stream)
    except OffsetHistoryExpired as error:
        return StreamStatus(stream, None, None, [], str(error))
    return StreamStatus(
        stream, start.load_seq if start else None, _last_load(table), [], None
    )


def _position(table: Table | None, stream: str) -> Position | None:
    return committed(table.metadata).get(stream) if table is not None else None


def _last_load(table: Table | None) -> datetime | None:
    """When rows were appended last; maintenance only overwrites."""
    if table is None:
        return None
    for snapshot in ancestors_of(table.current_snapshot(), table.metadata):
        summary = snapshot.summary
        if summary is not None and summary.operation == Operation.APPEND:
            return _instant(snapshot.timestamp_ms)
    return None


def _lag(
    log: EventLog,
    topic: str,
    state: TopicState,
    start: Position | None,
    clock: Clock,
) -> list[PartitionLag]:
    offsets = dict(state.beginning) | (start.offsets if start else {})
    waiting = log.waiting(topic, offsets)
    return [
        PartitionLag(
            partition=partition,
            loaded_to=offsets[partition],
            end=end,
            records=waiting.get(partition, 0),
            seconds=_seconds(log, topic, state, partition, offsets[partition], clock)
            if waiting.get(partition)
            else 0.0,
        )
        for partition, end in sorted(state.end.items())
    ]


def _seconds(
    log: EventLog,
    topic: str,
    state: TopicState,
    partition: int,
    offset: int,
    clock: Clock,
) -> float:
    """How long the record at ``offset`` is in the log."""
    only_there: Mapping[int, int] = dict(state.end) | {partition: offset}
    oldest = [
        record.timestamp_ms
        for record in log.read(topic, only_there, 1).records
        if record.partition == partition
    ]
    if not oldest:
        return 0.0
    return max(0.0, (clock.now() - _instant(oldest[0])).total_seconds())


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


# --- tables ------------------------------------------------------------------


def _table(settings: Settings, name: str, table: Table, now: datetime) -> TableStatus:
    head = table.current_snapshot()
    summary = head.summary if head is not None else None
    totals = summary.additional_properties if summary is not None else {}
    age = timedelta(seconds=settings.snapshot_age_s)
    return TableStatus(
        table=name,
        rows=int(totals.get("total-records", 0)),
        files=int(totals.get("total-data-files", 0)),
        bytes=int(totals.get("total-files-size", 0)),
        files_due=sum(len(part) for part in due(table, policy_of(settings))),
        snapshots=len(table.snapshots()),
        snapshots_due=len(expirable(table.metadata, age, settings.snapshots_kept, now)),
        last_commit=_instant(head.timestamp_ms) if head is not None else None,
    )


def _dead_letters(table: Table | None, since: datetime) -> list[DeadLetterCount]:
    if table is None:
        return []
    letters = table.scan(
        f"ingested_at >= '{since.isoformat()}'",
        selected_fields=("stream", "field", "reason"),
    ).to_arrow_batch_reader()
    with duckdb.connect() as connection:
        connection.register("letters", letters)
        found = connection.execute(
            "select stream, field, reason, count(*) from letters group by all "
            f"order by count(*) desc, stream, reason limit {SHOWN_REASONS}"
        ).fetchall()
    return [DeadLetterCount(*row) for row in found]


def _losses(table: Table | None) -> list[dict[str, Any]]:
    if table is None:
        return []
    rows = table.scan().to_arrow().sort_by([("accepted_at", "descending")])
    found: list[dict[str, Any]] = rows.slice(0, SHOWN_LOSSES).to_pylist()
    return found


# --- what to do --------------------------------------------------------------


def _advice(
    settings: Settings,
    away: str | None,
    streams: list[StreamStatus],
    tables: list[TableStatus],
    dead: list[DeadLetterCount],
) -> Iterator[str]:
    if away is not None:
        yield away
    yield from (one.refused for one in streams if one.refused is not None)
    for one in streams:
        longest = max((lag.seconds for lag in one.partitions), default=0.0)
        if longest > LATE.total_seconds():
            waiting = sum(lag.records for lag in one.partitions)
            yield (
                f"{waiting} records of {one.stream} wait, one for "
                f"{timedelta(seconds=round(longest))}: see that `feedloop load --every "
                "60s` runs and keeps up."
            )
    if not tables:
        yield (f"{settings.raw_schema} holds no table yet; `feedloop load` makes them.")
    merge = sum(one.files_due for one in tables)
    if merge:
        yield f"Compaction is due for {merge} files: run `feedloop maintain`."
    snapshots = sum(one.snapshots_due for one in tables)
    if snapshots > MANY_SNAPSHOTS:
        yield f"{snapshots} snapshots may expire: run `feedloop maintain`."
    letters = sum(one.count for one in dead)
    if letters:
        yield (
            f"{letters} messages became dead letters in the last 24 hours: look at "
            "`feedloop dead-letters`, mend their cause and run `feedloop dead-letters "
            "replay`."
        )
