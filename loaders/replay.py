"""A time window of the log into a table of its own, beside production.

The window's offsets are fixed when the table is made and stand in its
properties; how far it was filled stands in its own commits, as with any table.
So a replay that was killed goes on, and nothing of production moves: neither
its tables nor its offsets, and no consumer group is used.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import datetime

import msgspec
import numpy as np
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import TableAlreadyExistsError
from pyiceberg.table import Table

from feedloop.contracts.log import Batch, EventLog, ReadableLog, Records, TopicState
from feedloop.contracts.tables import DEAD_LETTERS, RAW_TABLES
from feedloop.errors import ReplayRefused
from feedloop.settings import Settings
from loaders.iceberg import committed, create_table
from loaders.loader import Loader, LoadReport

WINDOW = "feedloop.replay"
"""The table property with the ``Window`` that a table was made for."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Window(msgspec.Struct, frozen=True):
    """A stretch of a topic by the log's time: from the first record at ``first``
    or later to before the first at ``last`` or later, in every partition.
    Windows that follow one another hold every record once. ``cut`` are the
    partitions that the log has only from ``begin`` on: older records are gone,
    and nobody knows whether some of them belonged here."""

    stream: str
    first: datetime
    last: datetime
    topic_id: str
    begin: dict[int, int]
    end: dict[int, int]
    cut: list[int]


class Replay:
    """Replays a window into the table ``name`` of ``settings.replay_schema``.

    What can't be stored goes to ``<name>_dead_letters`` beside it. Raises
    ``ReplayRefused`` for a name that production has or that holds another
    window, and where the log no longer has the window.
    """

    def __init__(
        self, settings: Settings, catalog: Catalog, log: EventLog, name: str
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ReplayRefused(
                f"{name!r} can't be a table's name; use small letters, digits and _, "
                f"without a schema: the table is made in {settings.replay_schema}."
            )
        if name in RAW_TABLES:
            raise ReplayRefused(
                f"{name} is a table of production; give the replay another, such as "
                f"{name}_again."
            )
        self._settings = settings
        self._catalog = catalog
        self._log = log
        self._name = name
        self.table = (settings.replay_schema, name)
        self.dead_letters = (settings.replay_schema, f"{name}_dead_letters")

    def open(self, stream: str, first: datetime, last: datetime) -> Window:
        """The window, and the tables where there are none yet."""
        if first >= last:
            raise ReplayRefused(
                f"The window ends at {last.isoformat()}, which is not after "
                f"{first.isoformat()}."
            )
        self._catalog.create_namespace_if_not_exists(self.table[:1])
        if not self._catalog.table_exists(self.table):
            self._create(self._look(stream, first, last))
        window = self._window()
        if (window.stream, window.first, window.last) != (stream, first, last):
            raise ReplayRefused(
                f"{'.'.join(self.table)} holds {window.stream} from "
                f"{window.first.isoformat()} to {window.last.isoformat()}; replay "
                "into another table, or drop that one."
            )
        return window

    def run(self, window: Window) -> Iterator[LoadReport]:
        """Batch after batch, from where the table is, to the window's end.

        Raises as ``Loader.load_once`` does. Whatever it raises, doing it again
        is safe.
        """
        self._check(window)
        log = _WindowLog(self._log, window)
        loader = _ReplayLoader(self._settings, self._catalog, log, window.stream, self)
        yield from loader.catch_up()

    def _look(self, stream: str, first: datetime, last: datetime) -> Window:
        topic = self._settings.topic(stream)
        state = self._log.state(topic)
        if state is None:
            raise ReplayRefused(f"The log has no topic {topic}, so nothing to replay.")
        begin = self._log.offsets_at(topic, first)
        return Window(
            stream=stream,
            first=first,
            last=last,
            topic_id=state.topic_id,
            begin=dict(begin),
            end=dict(self._log.offsets_at(topic, last)),
            cut=[p for p, at in begin.items() if 0 < at == state.beginning.get(p)],
        )

    def _create(self, window: Window) -> None:
        told = {WINDOW: msgspec.json.encode(window).decode()}
        # The dead letters' first: where there is a table there is one for them.
        for identifier, like in (
            (self.dead_letters, DEAD_LETTERS),
            (self.table, window.stream),
        ):
            with suppress(TableAlreadyExistsError):  # of a try that was killed
                create_table(self._catalog, identifier, RAW_TABLES[like], told)

    def _window(self) -> Window:
        text = self._catalog.load_table(self.table).properties.get(WINDOW)
        if text is None:
            raise ReplayRefused(
                f"{'.'.join(self.table)} was not made by `feedloop replay`; choose "
                "another name."
            )
        return msgspec.json.decode(text, type=Window)

    def _check(self, window: Window) -> None:
        """Whether the log still has what is left of the window."""
        topic = self._settings.topic(window.stream)
        state = self._log.state(topic)
        name = ".".join(self.table)
        if state is None or state.topic_id != window.topic_id:
            raise ReplayRefused(
                f"{topic} is not the topic any more from which {name} was begun; "
                "drop that table and replay what the log has now."
            )
        metadata = self._catalog.load_table(self.table).metadata
        done = committed(metadata).get(window.stream)
        offsets = done.offsets if done else window.begin
        gone = [
            partition
            for partition, end in window.end.items()
            if offsets[partition] < min(end, state.beginning[partition])
        ]
        if gone:
            raise ReplayRefused(
                f"{topic} has dropped records of the window in partition {gone[0]} "
                f"since {name} was begun; drop that table and replay what the log "
                "has now."
            )


class _ReplayLoader(Loader):
    """The loader of production, with the same rules, on the replay's tables."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        log: ReadableLog,
        stream: str,
        replay: Replay,
    ) -> None:
        super().__init__(settings, catalog, log, stream)
        self._replay = replay

    def _open(self, name: str) -> Table:
        replay = self._replay
        identifier = replay.dead_letters if name == DEAD_LETTERS else replay.table
        return self._catalog.load_table(identifier)


class _WindowLog:
    """A log that begins and ends where the window does."""

    def __init__(self, log: ReadableLog, window: Window) -> None:
        self._log = log
        self._window = window

    def state(self, topic: str) -> TopicState | None:
        window = self._window
        return TopicState(window.topic_id, window.begin, window.end)

    def read(
        self,
        topic: str,
        offsets: Mapping[int, int],
        limit: int,
        only: Collection[int] | None = None,
    ) -> Batch:
        """Goes on to the next records where those it read lie behind the end."""
        ends = self._window.end
        at = {
            p: offsets.get(p, begin)
            for p, begin in self._window.begin.items()
            if only is None or p in only
        }
        while True:
            behind = [p for p, offset in at.items() if offset < ends[p]]
            if not behind:
                return Batch([], at)
            batch = self._log.read(topic, at, limit, behind)
            parts = [part for part in map(self._clipped, batch.parts) if len(part)]
            moved = at | {p: min(n, ends[p]) for p, n in batch.next_offsets.items()}
            if parts or moved == at:
                return Batch(parts, moved)
            at = moved

    def _clipped(self, records: Records) -> Records:
        ends = self._window.end
        before = np.zeros(len(records), np.bool_)
        for p in np.unique(records.partitions).tolist():
            before |= (records.partitions == p) & (records.offsets < ends.get(p, 0))
        kept = np.flatnonzero(before).tolist()
        if len(kept) == len(records):
            return records
        return Records(
            records.partitions[kept],
            records.offsets[kept],
            records.timestamps_ms[kept],
            [records.keys[n] for n in kept],
            [records.values[n] for n in kept],
        )
