"""Dead letters once more: what can be stored by now goes into its table.

A letter is decoded from its bytes as they came and with the log's own time, as
if it were read from the log now: a type of event was added to the seed, say, or
a rule was mended. What is good is appended to the stream's table first, and
taken out of the dead letters then. Killed in between it is there already when
this is done again: an event by its ``event_id``, an item or user by where it
stood in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import Catalog
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import FileScanTask, Table

from feedloop.contracts.log import EVENTS, STREAMS, Record, Records
from feedloop.contracts.tables import (
    DEAD_LETTERS,
    DEAD_LETTERS_SCHEMA,
)
from feedloop.errors import Fenced, WarehouseEmpty
from feedloop.settings import Settings
from loaders.decode import Decoder, decoder
from loaders.dedupe import Deduplicator
from loaders.iceberg import (
    FencedAppend,
    FencedRewrite,
    OffsetFence,
    OffsetsKept,
    Position,
    committed,
    open_table,
)

ATTEMPTS = 10
GROUP_ROWS = 50_000


@dataclass(frozen=True)
class Letters:
    """Which dead letters are meant. None is any; ``reason`` is a part of the
    reason or the field that was named, in any case; ``since`` is the log's
    time."""

    stream: str | None = None
    reason: str | None = None
    since: datetime | None = None

    def condition(self) -> tuple[str, list[object]]:
        """As SQL, with its parameters."""
        parts = ["true"]
        values: list[object] = []
        if self.stream is not None:
            parts.append("stream = ?")
            values.append(self.stream)
        if self.reason is not None:
            parts.append("contains(lower(concat_ws(' ', field, reason)), lower(?))")
            values.append(self.reason)
        if self.since is not None:
            parts.append("ingested_at >= ?")
            values.append(self.since)
        return " and ".join(parts), values


@dataclass(frozen=True)
class Replayed:
    """What became of a stream's dead letters.

    ``stored`` are rows now, ``duplicates`` were there already, and both are no
    dead letters any more; ``still_bad`` are.
    """

    stream: str
    letters: int
    stored: int
    duplicates: int
    still_bad: int


class DeadLetterReplay:
    """Sends dead letters once more. The raw tables must exist."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog

    def run(
        self,
        wanted: Letters,
        *,
        dry_run: bool = False,
        on_letters: Callable[[int], None] = lambda done: None,
    ) -> list[Replayed]:
        """Replay the ``wanted`` letters, some thousands at a time; what there is
        of each stream. A dry run only tells what would be done.

        Raises ``Fenced`` where others keep committing first. Whatever it
        raises, doing it again is safe.
        """
        total: dict[str, Replayed] = {}
        for stream in STREAMS:
            if wanted.stream in (None, stream):
                one = replace(wanted, stream=stream)
                for done in self._stream(one, stream, dry_run):
                    total[stream] = _sum(total.get(stream), done)
                    on_letters(done.letters)
        return list(total.values())

    def _open(self, name: str) -> Table:
        return open_table(self._catalog, self._settings, name)

    def _stream(
        self, wanted: Letters, stream: str, dry_run: bool
    ) -> Iterator[Replayed]:
        decode = decoder(stream, self._settings)
        done: set[str] = set()
        for attempt in range(1, ATTEMPTS + 1):
            table = self._open(DEAD_LETTERS)
            try:
                for group in _groups(table, wanted, done):
                    found = self._group(table, group, wanted, decode, stream, dry_run)
                    if found is not None:
                        yield found
                    done.update(task.file.file_path for task in group)
                return
            except Fenced:
                # The files are compacted, or a loader was faster: look again.
                if attempt == ATTEMPTS:
                    raise

    def _group(
        self,
        table: Table,
        group: Sequence[FileScanTask],
        wanted: Letters,
        decode: Decoder,
        stream: str,
        dry_run: bool,
    ) -> Replayed | None:
        letters = _read(table, group)
        chosen, others = _split(letters, wanted)
        if not chosen.num_rows:
            return None
        target = self._open(stream)
        start = committed(target.metadata).get(stream)
        if start is None:
            raise WarehouseEmpty(
                f"{self._settings.raw_schema}.{stream} was never loaded; run "
                "`feedloop load` first."
            )
        load_seq = start.load_seq + 1
        decoded = decode.decode(_records(chosen), load_seq)
        good = pa.Table.from_batches([decoded.rows])
        bad = _still_bad(chosen, pa.Table.from_batches([decoded.dead]))
        fresh = self._fresh(stream, target, good)
        if good.num_rows and not dry_run:
            if fresh.num_rows:
                # The position takes the next load_seq, though its offsets stay:
                # a loader that read the table before this is fenced, or it
                # might store the same event_id a second time.
                end = Position(start.topic_id, load_seq, start.offsets)
                append = FencedAppend(target)
                append.add(fresh)
                append.commit(OffsetFence(stream, start, end))
            rewrite = FencedRewrite(table)
            left = pa.concat_tables([others, bad])
            if left.num_rows:
                rewrite.add(left)
            rewrite.replace(task.file for task in group)
            rewrite.commit(OffsetsKept())
            table.refresh()
        return Replayed(
            stream=stream,
            letters=chosen.num_rows,
            stored=fresh.num_rows,
            duplicates=good.num_rows - fresh.num_rows,
            still_bad=bad.num_rows,
        )

    def _fresh(self, stream: str, table: Table, good: pa.Table) -> pa.Table:
        if not good.num_rows:
            return good
        if stream == EVENTS:
            horizon = timedelta(days=self._settings.dedupe_horizon_days)
            dedupe = Deduplicator(self._settings.dedupe_dir, horizon)
            return dedupe.fresh(table, good).rows
        return _places_not_yet_in(table, good)


def _sum(one: Replayed | None, other: Replayed) -> Replayed:
    if one is None:
        return other
    return Replayed(
        one.stream,
        one.letters + other.letters,
        one.stored + other.stored,
        one.duplicates + other.duplicates,
        one.still_bad + other.still_bad,
    )


def _groups(
    table: Table, wanted: Letters, done: set[str]
) -> Iterator[list[FileScanTask]]:
    """The files that may hold wanted letters, some thousands of rows at once."""
    row_filter = f"stream = '{wanted.stream}'"
    if wanted.since is not None:
        row_filter += f" and ingested_at >= '{wanted.since.isoformat()}'"
    group: list[FileScanTask] = []
    rows = 0
    for task in list(table.scan(row_filter).plan_files()):
        if task.file.file_path in done:
            continue
        group.append(task)
        rows += task.file.record_count
        if rows >= GROUP_ROWS:
            yield group
            group, rows = [], 0
    if group:
        yield group


def _read(table: Table, group: Sequence[FileScanTask]) -> pa.Table:
    """All rows of the files, of whatever stream."""
    scan = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())
    return scan.to_table(group).cast(DEAD_LETTERS_SCHEMA)


def _split(letters: pa.Table, wanted: Letters) -> tuple[pa.Table, pa.Table]:
    """Those that are wanted, by the log's time, and the others."""
    condition, values = wanted.condition()
    numbered = letters.append_column("n", pa.array(range(letters.num_rows)))
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.register("letters", numbered)
        found = connection.execute(
            f"select n from letters where {condition} "
            "order by ingested_at, log_partition, log_offset",
            values,
        ).to_arrow_table()["n"]
    is_wanted = pc.is_in(numbered["n"], value_set=found.combine_chunks())
    return letters.take(found), letters.filter(pc.invert(is_wanted))


def _records(letters: pa.Table) -> Records:
    micros = letters["ingested_at"].cast(pa.int64()).to_pylist()
    return Records.of(
        Record(partition, offset, at // 1000, key, value)
        for partition, offset, at, key, value in zip(
            letters["log_partition"].to_pylist(),
            letters["log_offset"].to_pylist(),
            micros,
            letters["key"].to_pylist(),
            letters["value"].to_pylist(),
            strict=True,
        )
    )


PLACE = ("log_partition", "log_offset", "ingested_at")
"""Where a record stood in the log. The time tells topics of one name apart."""
WHY = ("field", "reason")


def _still_bad(letters: pa.Table, dead: pa.Table) -> pa.Table:
    """``letters`` that are ``dead`` again, with the reason of now."""
    why = dict(zip(_places(dead), zip(*_columns(dead, WHY), strict=True), strict=True))
    at = _places(letters)
    bad = letters.filter(pa.array([place in why for place in at], pa.bool_()))
    reasons = [why[place] for place in at if place in why]
    for number, name in enumerate(WHY):
        field = DEAD_LETTERS_SCHEMA.field(name)
        values = pa.array([reason[number] for reason in reasons], field.type)
        index = DEAD_LETTERS_SCHEMA.get_field_index(name)
        bad = bad.set_column(index, field, values)
    return bad


def _places(rows: pa.Table) -> list[tuple[object, ...]]:
    return list(zip(*_columns(rows, PLACE), strict=True))


def _columns(rows: pa.Table, names: Sequence[str]) -> list[list[object]]:
    return [rows[name].to_pylist() for name in names]


def _places_not_yet_in(table: Table, rows: pa.Table) -> pa.Table:
    """``rows`` without those whose place in the log the table has."""
    bounds = pc.min_max(rows["ingested_at"]).as_py()
    first, last = bounds["min"].isoformat(), bounds["max"].isoformat()
    stored = table.scan(
        row_filter=f"ingested_at >= '{first}' and ingested_at <= '{last}'",
        selected_fields=PLACE,
    ).to_arrow_batch_reader()
    numbered = rows.append_column("n", pa.array(range(rows.num_rows)))
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.register("stored", stored)
        connection.register("batch", numbered.select([*PLACE, "n"]))
        found = connection.execute(
            f"select n from batch anti join stored using ({', '.join(PLACE)}) "
            "order by n"
        ).to_arrow_table()["n"]
    return rows.take(found)
