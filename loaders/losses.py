"""Where going on would lose records: what is refused, and going on all the same.

The loader refuses by itself. `feedloop load --accept-loss STREAM` writes what
is skipped into ``raw.accepted_losses`` first and moves the stream's position
then, so that whatever it is killed in the middle of, no loss goes unwritten;
doing it again completes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import ValidationException
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata

from feedloop.contracts.log import EventLog, TopicState
from feedloop.contracts.tables import (
    ACCEPTED_LOSSES,
    ACCEPTED_LOSSES_SCHEMA,
    DEAD_LETTERS,
)
from feedloop.errors import (
    LogError,
    OffsetHistoryExpired,
    OffsetsLost,
    TopicRecreated,
)
from feedloop.settings import Settings
from loaders.iceberg import (
    Fence,
    FencedAppend,
    HeadFence,
    OffsetFence,
    Position,
    committed,
    open_table,
    with_position,
)

Reason = Literal[
    "offsets expired",
    "partition lost",
    "table ahead",
    "topic recreated",
    "log replaced",
    "offset history expired",
]


@dataclass(frozen=True)
class Loss:
    """What a partition lost between the table and the log.

    The records from ``from_offset`` (of the topic that the table was loaded
    from) to before ``to_offset``; None where nobody knows. ``resume`` is where
    loading goes on in the log, None where the log has no such partition.
    """

    partition: int
    reason: Reason
    from_offset: int | None
    to_offset: int | None
    resume: int | None
    detail: str


def find_losses(
    settings: Settings, stream: str, state: TopicState, start: Position | None
) -> list[Loss]:
    """What loading on from ``start`` would skip; nothing if all is well."""
    if start is None:
        return []
    topic = settings.topic(stream)
    table = f"{settings.raw_schema}.{stream}"
    if state.topic_id != start.topic_id:
        detail = (
            f"{topic} was deleted and made anew since {table} was last loaded "
            f"(topic id {state.topic_id}, not {start.topic_id}), so that its "
            "offsets mean other records"
        )
        return [
            Loss(p, "topic recreated", offset, None, state.beginning.get(p), detail)
            for p, offset in sorted(start.offsets.items())
        ]
    found = (
        _loss(topic, table, partition, offset, state)
        for partition, offset in sorted(start.offsets.items())
    )
    return [loss for loss in found if loss is not None]


def _loss(
    topic: str, table: str, partition: int, offset: int, state: TopicState
) -> Loss | None:
    beginning = state.beginning.get(partition)
    end = state.end.get(partition)
    if beginning is None or end is None:
        detail = f"{topic} has lost its partition {partition}"
        return Loss(partition, "partition lost", offset, None, None, detail)
    if offset < beginning:
        detail = (
            f"{topic} no longer has the offsets {offset} to {beginning - 1} of "
            f"partition {partition}, which were never loaded"
        )
        return Loss(partition, "offsets expired", offset, beginning, beginning, detail)
    if offset > end:
        detail = (
            f"{table} was loaded up to offset {offset} of partition {partition} of "
            f"{topic}, which ends at {end}"
        )
        # What now stands below that offset may be other records than were
        # loaded: all of them are read again, and event_id tells.
        return Loss(partition, "table ahead", end, offset, beginning, detail)
    return None


def refuse(
    settings: Settings,
    stream: str,
    state: TopicState | None,
    start: Position | None,
) -> None:
    """Raise ``TopicRecreated`` or ``OffsetsLost`` where loading on from
    ``start`` would lose records."""
    if start is None:
        return
    topic = settings.topic(stream)
    if state is None:
        raise OffsetsLost(
            f"The log has no topic {topic} any more, from which "
            f"{settings.raw_schema}.{stream} was loaded; restore it. If it is gone "
            "for good, `feedloop collect` makes it anew, and `feedloop load "
            f"--accept-loss {stream}` goes on from there."
        )
    losses = find_losses(settings, stream, state, start)
    if not losses:
        return
    first = losses[0]
    more = f" (and {len(losses) - 1} more)" if len(losses) > 1 else ""
    kind: type[LogError] = OffsetsLost
    if first.reason == "topic recreated":
        kind, more = TopicRecreated, ""
    raise kind(
        f"{first.detail}{more}; restore the topic, or go on from what the log has "
        f"with `feedloop load --accept-loss {stream}`, which writes down what is "
        "skipped."
    )


class Losses:
    """The losses of one stream, found and accepted."""

    def __init__(
        self, settings: Settings, catalog: Catalog, log: EventLog, stream: str
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._log = log
        self._stream = stream
        self._topic = settings.topic(stream)

    def find(self) -> list[Loss]:
        """Raises ``OffsetsLost`` where there is no topic to go on from."""
        return self._look()[0]

    def accept(self, at: datetime, by: str) -> list[Loss]:
        """Write down what is skipped and move on.

        Raises ``Fenced`` where the stream was loaded meanwhile; whatever it
        raises, calling it again is safe.
        """
        losses, state, start, table = self._look()
        if not losses:
            return []
        load_seq = (start.load_seq if start else _last_load_seq(table)) + 1
        self._write_down(losses, state, start, load_seq, at, by)
        offsets = dict(start.offsets) if start else {}
        for loss in losses:
            offsets.pop(loss.partition, None)
            if loss.resume is not None:
                offsets[loss.partition] = loss.resume
        end = Position(state.topic_id, load_seq, offsets)
        # Dead letters first, as the loader does. Below their own offsets it
        # writes none again, and those now mean other records.
        dead_table = self._open(DEAD_LETTERS)
        _move(dead_table, self._stream, end)
        _move(table, self._stream, end, start)
        return losses

    def _open(self, name: str) -> Table:
        return open_table(self._catalog, self._settings, name)

    def _look(self) -> tuple[list[Loss], TopicState, Position | None, Table]:
        table = self._open(self._stream)
        state = self._log.state(self._topic)
        try:
            start = committed(table.metadata).get(self._stream)
        except OffsetHistoryExpired as error:
            if state is None:
                raise
            # All that the log has is read again; event_id tells what is new.
            losses = [
                Loss(
                    partition,
                    "offset history expired",
                    None,
                    None,
                    beginning,
                    str(error).partition(";")[0],
                )
                for partition, beginning in sorted(state.beginning.items())
            ]
            return losses, state, None, table
        if state is None:
            refuse(self._settings, self._stream, state, start)
            raise OffsetsLost(
                f"The log has no topic {self._topic} yet, and nothing was lost."
            ) from None
        losses = find_losses(self._settings, self._stream, state, start)
        if not losses and start is not None:
            losses = self._unreadable(state, start)
        return losses, state, start, table

    def _unreadable(self, state: TopicState, start: Position) -> list[Loss]:
        """Offsets that lie within the log, and at which no record begins: its
        files are others than they were. All that they hold is read again."""
        try:
            self._log.read(self._topic, start.offsets, 1)
        except OffsetsLost as error:
            detail = str(error).partition(";")[0]
            return [
                Loss(p, "log replaced", at, None, state.beginning.get(p), detail)
                for p, at in sorted(start.offsets.items())
            ]
        return []

    def _write_down(
        self,
        losses: Sequence[Loss],
        state: TopicState,
        start: Position | None,
        load_seq: int,
        at: datetime,
        by: str,
    ) -> None:
        """Append what is not there yet from a try that got no further."""
        audit = self._open(ACCEPTED_LOSSES)
        fence = HeadFence(audit)
        # of one position: only the next acceptance has another load_seq
        told = audit.scan(
            f"stream = '{self._stream}' and load_seq = {load_seq}",
            selected_fields=("log_partition", "reason", "to_offset"),
        ).to_arrow()
        rows = []
        for loss in losses:
            same = told.filter(
                (pc.field("log_partition") == loss.partition)
                & (pc.field("reason") == loss.reason)
            )
            first = loss.from_offset
            if same.num_rows:
                reached = pc.max(same["to_offset"]).as_py()
                if reached is None or loss.to_offset is None:
                    continue
                if reached >= loss.to_offset:
                    continue
                first = reached  # the log has dropped more since then
            rows.append(
                {
                    "stream": self._stream,
                    "topic": self._topic,
                    "log_partition": loss.partition,
                    "reason": loss.reason,
                    "from_offset": first,
                    "to_offset": loss.to_offset,
                    "resumed_at": loss.resume,
                    "loaded_topic_id": start.topic_id if start else None,
                    "log_topic_id": state.topic_id,
                    "load_seq": load_seq,
                    "accepted_at": at,
                    "accepted_by": by,
                }
            )
        if rows:
            append = FencedAppend(audit)
            append.add(pa.Table.from_pylist(rows, schema=ACCEPTED_LOSSES_SCHEMA))
            append.commit(fence)


def _last_load_seq(table: Table) -> int:
    newest = 0
    for batch in table.scan(selected_fields=("load_seq",)).to_arrow_batch_reader():
        newest = max(newest, pc.max(batch["load_seq"]).as_py() or 0)
    return newest


def _move(
    table: Table, stream: str, end: Position, start: Position | None = None
) -> None:
    """Move the stream's position, without rows; by default from where it is."""
    fence: Fence
    try:
        positions = committed(table.metadata)
        fence = OffsetFence(stream, start or positions.get(stream), end)
    except OffsetHistoryExpired:
        fence = _Restart(stream, end)
    FencedAppend(table).commit(fence)


class _Restart:
    """Gives a table whose offset history was expired its first position anew."""

    def __init__(self, stream: str, end: Position) -> None:
        self._stream = stream
        self._end = end

    def check(self, metadata: TableMetadata) -> None:
        try:
            committed(metadata)
        except OffsetHistoryExpired:
            return
        raise ValidationException("another process gave it offsets")

    def summary(self, metadata: TableMetadata) -> dict[str, str]:
        return with_position({}, self._stream, self._end)
