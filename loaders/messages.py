"""Rows of a file as messages of the log.

A row becomes the JSON its stream's contract wants. Whether it keeps the
contract is not decided here: a row that doesn't is sent like the others, with
the values it came with, and the loader makes a dead letter of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from itertools import compress, islice
from typing import Any, NamedTuple

import msgspec

from feedloop.contracts.log import Message
from loaders.conversion import convert
from loaders.instants import EPOCH, LAST_MS, instant
from loaders.mapping import Column, FieldMap, Target
from loaders.row_sources import CHUNK_ROWS, Chunk, RowSource

_encode = msgspec.json.Encoder().encode
_IDENTITY = ("user_id", "item_id", "event_type", "occurred_at", "event_value")
_LAST = instant(LAST_MS) or EPOCH


@dataclass(frozen=True)
class Cut:
    """Which rows are taken: those of [since, until), and ``limit`` at most."""

    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None


EVERYTHING = Cut()


class Built(NamedTuple):
    """Messages and, parallel to them, their rows' numbers in the file; how
    many rows were read for them; the first and last time among them."""

    messages: Sequence[Message]
    numbers: Sequence[int]
    read: int
    first: datetime | None
    last: datetime | None


@dataclass(frozen=True)
class Part:
    """What is imported into one stream from what ``name`` says.

    ``build`` gives the same whenever it is called; ``total`` is the number of
    rows it reads, None where only reading tells. ``field_map`` is None for
    records that were made from events.
    """

    stream: str
    name: str
    total: int | None
    build: Callable[[], Iterator[Built]]
    field_map: FieldMap | None = None


class MessageBuilder:
    """Builds the messages of one stream.

    ``scope`` is part of the ids that are made: two datasets may have the same
    row and mean different things by it.
    """

    def __init__(
        self, field_map: FieldMap, *, scope: str = "", time_unit: str | None = None
    ) -> None:
        self._map = field_map
        self._scope = scope
        self._time_unit = time_unit
        target = field_map.target
        prefix = f"{target.open_field}."
        names = list(field_map.sources)
        self._plain = [name for name in names if not name.startswith(prefix)]
        self._open = [name for name in names if name.startswith(prefix)]
        self._makes_ids = bool(target.made) and target.made not in names
        made = [str(target.made)] if self._makes_ids else []
        opened = [target.open_field] if self._open else []
        self._record = _struct([*made, *self._plain, *opened])
        self._inner = _struct([name.removeprefix(prefix) for name in self._open])

    def built(
        self, source: RowSource, cut: Cut, rows: int = CHUNK_ROWS
    ) -> Iterator[Built]:
        """The messages of ``source``, chunk after chunk."""
        left = cut.limit
        for chunk in source.chunks(self._map.columns(), rows):
            built = self._build(chunk, cut, left)
            yield built
            if left is not None:
                left -= len(built.messages)
                if left <= 0:
                    return

    def _build(self, chunk: Chunk, cut: Cut, left: int | None) -> Built:
        time = self._map.target.time
        times = self._values(time, chunk)
        numbers: Sequence[int] = chunk.numbers
        if cut.since is not None or cut.until is not None:
            kept = [_is_within(at, cut) for at in times]
            times = list(compress(times, kept))
            numbers = list(compress(numbers, kept))
            columns = {n: list(compress(v, kept)) for n, v in chunk.columns.items()}
            chunk = Chunk(numbers, columns, chunk.broken)
        values = {
            name: times if name == time else self._values(name, chunk)
            for name in self._map.sources
        }
        messages = self._messages(values, len(numbers))
        messages += [Message("", text) for _, text in chunk.broken]
        instants = [at for at in times[:left] if isinstance(at, datetime)]
        return Built(
            messages=messages[:left],
            numbers=[*numbers, *(number for number, _ in chunk.broken)][:left],
            read=len(chunk.numbers) + len(chunk.broken),
            first=min(instants, default=None),
            last=max(instants, default=None),
        )

    def _values(self, name: str, chunk: Chunk) -> list[Any]:
        source = self._map.sources[name]
        kind = self._map.target.kind(name)
        if kind is None:
            raise KeyError(name)
        if isinstance(source, Column):
            return convert(chunk.columns[source.name], kind, self._time_unit)
        return convert([source.value], kind, self._time_unit) * len(chunk.numbers)

    def _messages(self, values: Mapping[str, list[Any]], count: int) -> list[Message]:
        target = self._map.target
        columns = [values[name] for name in self._plain]
        if self._open:
            inner = map(self._inner, *(values[name] for name in self._open))
            columns.append(list(inner))
        if self._makes_ids:
            columns.insert(0, self._ids(values, count))
        return list(
            map(
                Message,
                _keys(values[target.key]),
                _all_json(list(map(self._record, *columns))),
                map(_log_time, values[target.time]),
            )
        )

    def _ids(self, values: Mapping[str, list[Any]], count: int) -> list[str]:
        """Ids made of what happened, so that a row has the same id in another
        export, under another name and mapped with more context.

        Rows that say the same (in all of ``_IDENTITY``) are one event.
        """
        nothing = [None] * count
        identity = (values.get(name, nothing) for name in _IDENTITY)
        scope = [self._scope] * count
        return list(map(_uuid, _all_json(list(zip(scope, *identity, strict=True)))))


def catalogue_messages(
    records: Iterable[Mapping[str, Any]], target: Target
) -> Iterator[Built]:
    """Items or users that were made from events, as messages."""
    unread = iter(records)
    number = 1
    while batch := list(islice(unread, CHUNK_ROWS)):
        times = [record[target.time] for record in batch]
        yield Built(
            messages=[
                Message(record[target.key], _encode(record), _log_time(at))
                for record, at in zip(batch, times, strict=True)
            ],
            numbers=range(number, number + len(batch)),
            read=len(batch),
            first=min(times),
            last=max(times),
        )
        number += len(batch)


def _struct(names: Sequence[str]) -> type[msgspec.Struct]:
    """A type with ``names`` as its keys in JSON, without those that are None:
    msgspec writes it several times as fast as a dict."""
    fields = [f"f{index}" for index in range(len(names))]
    return msgspec.defstruct(
        "Row",
        [(field, Any, None) for field in fields],
        rename=dict(zip(fields, names, strict=True)),
        omit_defaults=True,
        gc=False,
    )


def _is_within(at: Any, cut: Cut) -> bool:
    """A row without a usable time is always in: it must become a dead letter."""
    if not isinstance(at, datetime):
        return True
    return (cut.since is None or cut.since <= at) and (
        cut.until is None or at < cut.until
    )


def _log_time(at: Any) -> datetime | None:
    """When the log is told that it got the row: ``ingested_at`` says when a
    thing could be known, and of the past that is when it happened.

    A log begins in 1970, which older films (or mistakes) get; what has no time
    at all gets that of the import.
    """
    if not isinstance(at, datetime) or at > _LAST:
        return None
    return max(at, EPOCH)


def _keys(values: list[Any]) -> list[str]:
    """The keys of rows, of which a bad one may have none."""
    if set(map(type, values)) == {str} and all(map(str.isascii, values)):
        return values
    return [
        value.encode(errors="replace").decode() if isinstance(value, str) else ""
        for value in values
    ]


def _all_json(values: list[Any]) -> list[bytes]:
    try:
        return list(map(_encode, values))
    except UnicodeEncodeError:
        return list(map(_json, values))


def _json(value: Any) -> bytes:
    try:
        return _encode(value)
    except UnicodeEncodeError:
        # Bytes that were not UTF-8 go on as they were.
        text = json.dumps(_builtins(value), ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "surrogateescape")


def _builtins(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        values = msgspec.structs.astuple(value)
        named = zip(value.__struct_encode_fields__, values, strict=True)
        return {name: _builtins(one) for name, one in named if one is not None}
    if isinstance(value, dict):
        return {str(name): _builtins(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_builtins(one) for one in value]
    if isinstance(value, (str, type(None))):
        return value
    return msgspec.json.decode(_encode(value))


def _uuid(identity: bytes) -> str:
    """A UUID of version 8 (RFC 9562: bits of the maker's own) of ``identity``."""
    h = blake2b(identity, digest_size=16).hexdigest()
    return f"{h[:8]}-{h[8:12]}-8{h[13:16]}-a{h[17:20]}-{h[20:]}"
