"""Import: rows of a dataset into the log, and from there into the raw tables.

The rows take the way that every event takes, so that the loader holds them to
the same rules: what breaks them is a dead letter and not an exception. Only
what can't be meant is refused before anything is sent: a file that can't be
read, a column that isn't there, or a first thousand rows that all fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from feedloop.clock import Clock
from feedloop.contracts.log import STREAMS, EventLog, Record, Records
from feedloop.errors import ImportFailed
from feedloop.settings import Settings
from feedloop.telemetry import Advance
from feedloop.telemetry import progress as progress_bar
from loaders.datasets import DATASETS
from loaders.decode import decoder
from loaders.instants import milliseconds
from loaders.loader import LoadReport, load_all
from loaders.log import create_topics, open_log
from loaders.mapping import FieldMap, Kind
from loaders.messages import EVERYTHING, Built, Cut, MessageBuilder, Part
from loaders.row_sources import SAMPLE_ROWS, open_rows

SHOWN_CHARACTERS = 60

Progress = Callable[[str, float | None], AbstractContextManager[Advance]]


@dataclass(frozen=True)
class ImportReport:
    """What was sent, and what the loader then made of it.

    ``first`` and ``last`` are the span of the events' times, or where there
    are none of the records' (None without any). What the loader ``stored``,
    by stream, its dead letters and its duplicates include whatever else was
    waiting in the log.
    """

    name: str
    sent: dict[str, int]
    first: datetime | None
    last: datetime | None
    stored: dict[str, int]
    dead_letters: int
    duplicates: int


def import_dataset(
    settings: Settings,
    clock: Clock,
    name: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
    strict: bool = False,
    progress: Progress = progress_bar,
) -> ImportReport:
    """Import a public dataset that lies in ``settings.data_dir``.

    Its events of [since, until), in order of time and ``limit`` at most;
    before them the items and users that are seen before those end. Importing
    it again stores no event twice. Raises ``ImportFailed``.
    """
    if name not in DATASETS:
        raise ImportFailed(
            f"There is no dataset {name!r}; there are {', '.join(DATASETS)}."
        )
    with progress(f"Reading {name}", None):
        parts = DATASETS[name](settings.data_dir / name, Cut(since, until, limit))
    return _import(settings, clock, name, parts, strict, progress)


def import_file(
    settings: Settings,
    clock: Clock,
    path: Path,
    field_map: FieldMap,
    *,
    time_unit: str | None = None,
    cut: Cut = EVERYTHING,
    strict: bool = False,
    progress: Progress = progress_bar,
) -> ImportReport:
    """Import a CSV, JSON-lines or Parquet file as ``field_map`` says.

    ``time_unit`` is that of unix times: s, ms or us; None recognises it. With
    ``strict`` a bad row is an ``ImportFailed`` before anything is sent;
    without, it becomes a dead letter. Raises ``ImportFailed``.
    """
    source = open_rows(path)
    field_map.check_columns(source.name, source.columns)
    builder = MessageBuilder(field_map, time_unit=time_unit)
    part = Part(
        stream=field_map.target.stream,
        name=source.name,
        total=source.total,
        build=lambda: builder.built(source, cut),
        field_map=field_map,
    )
    return _import(settings, clock, path.name, [part], strict, progress)


@dataclass
class _Sent:
    """What was sent so far."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))
    span: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)

    def add(self, stream: str, built: Built) -> None:
        self.counts[stream] += len(built.messages)
        if built.first is not None and built.last is not None:
            first, last = self.span.get(stream, (built.first, built.last))
            self.span[stream] = min(first, built.first), max(last, built.last)


def _import(
    settings: Settings,
    clock: Clock,
    name: str,
    parts: Sequence[Part],
    strict: bool,
    progress: Progress,
) -> ImportReport:
    for part in parts:
        _refuse_bad_rows(settings, clock, part, strict, progress)
    sent = _Sent()
    with closing(open_log(settings, clock)) as log:
        create_topics(log, settings)
        for part in parts:
            _send(settings, log, part, sent, progress)
    loaded = _load(settings, clock, sum(sent.counts.values()), progress)
    # EVENTS comes first in STREAMS: their span says most
    spans = [sent.span[stream] for stream in STREAMS if stream in sent.span]
    first, last = spans[0] if spans else (None, None)
    stored = dict.fromkeys(STREAMS, 0)
    for report in loaded:
        stored[report.stream] += report.rows
    return ImportReport(
        name=name,
        sent=sent.counts,
        first=first,
        last=last,
        stored=stored,
        dead_letters=sum(report.dead_letters for report in loaded),
        duplicates=sum(report.duplicates for report in loaded),
    )


def _send(
    settings: Settings, log: EventLog, part: Part, sent: _Sent, progress: Progress
) -> None:
    topic = settings.topic(part.stream)
    title = f"{part.stream.capitalize()} into the log"
    with progress(title, part.total) as advance:
        for built in part.build():
            log.append(topic, built.messages)
            sent.add(part.stream, built)
            advance(built.read)


def _load(
    settings: Settings, clock: Clock, total: int, progress: Progress
) -> list[LoadReport]:
    with progress("From the log into the tables", total) as advance:
        return load_all(
            settings, clock, on_batch=lambda report: advance(report.records)
        )


class _BadRow(NamedTuple):
    """Where a row stands in its file and why the loader would refuse it."""

    number: int
    field: str
    reason: str
    value: bytes


def _refuse_bad_rows(
    settings: Settings, clock: Clock, part: Part, strict: bool, progress: Progress
) -> None:
    """Ask the loader's decoder, before anything is sent.

    Raises ``ImportFailed`` for the first bad row when ``strict``, else where
    all of the first rows are bad.
    """
    title = f"Checking {part.stream}"
    with progress(title, part.total if strict else None) as advance:
        for built in part.build():
            checked = len(built.messages) if strict else SAMPLE_ROWS
            checked = min(checked, len(built.messages))
            bad = _bad_rows(settings, clock, part.stream, built, checked)
            if bad and (strict or len(bad) == checked):
                raise ImportFailed(_sentence(part, bad[0], strict, checked))
            if checked and not strict:
                return
            advance(built.read)


def _bad_rows(
    settings: Settings, clock: Clock, stream: str, built: Built, count: int
) -> list[_BadRow]:
    """Those of the first ``count`` rows that would become dead letters."""
    records = Records.of(
        Record(0, index, milliseconds(message, clock), message.key, message.value)
        for index, message in enumerate(built.messages[:count])
    )
    dead = decoder(stream, settings).decode(records, load_seq=0).dead.to_pylist()
    return [
        _BadRow(
            number=built.numbers[row["log_offset"]],
            field=row["field"] or "",
            reason=row["reason"],
            value=row["value"],
        )
        for row in dead
    ]


def _sentence(part: Part, bad: _BadRow, strict: bool, checked: int) -> str:
    field_map = part.field_map
    source = field_map.source_of(bad.field) if field_map else bad.field
    where = f"{part.name}, row {bad.number} (from 1, a header not counted), {source}"
    reason = f"{_shown(bad)}{bad.reason}"
    if field_map and field_map.target.kind(bad.field) is Kind.TIME:
        reason += " (a time is ISO text, or unix s, ms or us: see --time-unit)"
    what_now = (
        "Nothing was imported; mend it, or leave out --strict: then bad rows "
        "become dead letters"
        if strict
        else f"So do all of the first {checked} rows, and nothing was imported; "
        "mend the mapping or the file"
    )
    return f"{where}: {reason}. {what_now}."


def _shown(bad: _BadRow) -> str:
    """The value that is wrong, where there is one to be shown."""
    try:
        value = msgspec.json.decode(bad.value)
        for key in bad.field.split("."):
            value = value[key]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return ""
    text = repr(value)
    if len(text) > SHOWN_CHARACTERS:
        text = f"{text[:SHOWN_CHARACTERS]}…"
    return f"{text}: "
