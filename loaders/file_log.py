"""The event log as files of JSON lines: the embedded log of one machine.

``<root>/<topic>/topic.json`` says what a topic is, ``<partition>.jsonl`` holds
one record a line, and a record's offset is the byte where its line begins. Any
number of processes may append and read at once; ``flock`` puts them in order.

A line is ``{"ts": ms, "key": text, "value": JSON}``. A value that is not JSON
on one line stands as ``"base64"`` instead, and neither of them is a tombstone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated
from zlib import crc32

import msgspec
from msgspec import Meta

from feedloop.clock import Clock
from feedloop.contracts.log import Batch, Message, Record, Records, TopicState
from feedloop.errors import LogUnavailable, OffsetsLost
from loaders.instants import EPOCH, LAST_MS, milliseconds

BLOCK_BYTES = 1 << 20
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class _Topic(msgspec.Struct, frozen=True):
    id: str
    partitions: Annotated[int, Meta(ge=1)]
    compacted: bool


class _Line(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    ts: Annotated[int, Meta(ge=0, le=LAST_MS)]
    key: str | None = None
    value: msgspec.Raw = msgspec.Raw(b"null")
    base64: bytes | None = None


_topic = msgspec.json.Decoder(_Topic)
_line = msgspec.json.Decoder(_Line)
_json = msgspec.json.Decoder(msgspec.Raw)
_encoder = msgspec.json.Encoder()


class FileLog:
    """``EventLog`` on files below ``root``; ``clock`` stamps what has no time."""

    def __init__(self, root: Path, partitions: int, clock: Clock) -> None:
        self._root = root
        self._partitions = partitions
        self._clock = clock

    def create(self, topic: str, *, compacted: bool = False) -> None:
        folder = self._root / topic
        draft = self._root / f".{topic}.{uuid.uuid4().hex}"
        with _errors_of(topic):
            if (folder / "topic.json").exists():
                return
            draft.mkdir(parents=True)
            try:
                meta = _Topic(str(uuid.uuid4()), self._partitions, compacted)
                with (draft / "topic.json").open("wb") as file:
                    file.write(_encoder.encode(meta))
                    file.flush()
                    os.fsync(file.fileno())
                draft.rename(folder)
                _sync_folder(self._root)
            except OSError:
                # another process was first, and its topic is as good as ours
                if not (folder / "topic.json").exists():
                    raise
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    def append(self, topic: str, messages: Sequence[Message]) -> None:
        """Appends all of ``messages`` or, when it raises, none of them."""
        with _errors_of(topic):
            partitions = self._require(topic).partitions
            lines: dict[int, list[_Line]] = {}
            for message in messages:
                partition = crc32(message.key.encode()) % partitions
                lines.setdefault(partition, []).append(self._line(message))
            blocks = {
                self._path(topic, partition): _encoder.encode_lines(lines[partition])
                for partition in sorted(lines)
            }
            _append_all(blocks)

    def state(self, topic: str) -> TopicState | None:
        with _errors_of(topic):
            meta = self._topic(topic)
            if meta is None:
                return None
            partitions = range(meta.partitions)
            return TopicState(
                topic_id=meta.id,
                beginning=dict.fromkeys(partitions, 0),
                end={p: _end(self._path(topic, p)) for p in partitions},
            )

    def read(
        self,
        topic: str,
        offsets: Mapping[int, int],
        limit: int,
        only: Collection[int] | None = None,
    ) -> Batch:
        with _errors_of(topic):
            partitions = range(self._require(topic).partitions)
            paths = {
                p: self._path(topic, p) for p in partitions if only is None or p in only
            }
            ends = {p: _end(path) for p, path in paths.items()}
            records: list[Record] = []
            following: dict[int, int] = {}
            # The emptiest partition goes first and leaves its unused share of
            # the limit to the others, so that none of them is starved.
            order = sorted(ends, key=lambda p: ends[p] - offsets.get(p, 0))
            for done, p in enumerate(order):
                share = -((len(records) - limit) // (len(order) - done))
                start = offsets.get(p, 0)
                _check_start(topic, p, paths[p], start, ends[p])
                following[p] = start
                for record, after in _records(paths[p], p, start, ends[p]):
                    if share == 0:
                        break
                    records.append(record)
                    following[p] = after
                    share -= 1
            return Batch([Records.of(records)], following)

    def offsets_at(self, topic: str, at: datetime) -> Mapping[int, int]:
        """Looks through the whole topic: a file has no index of times."""
        wanted = (at - EPOCH) / timedelta(milliseconds=1)
        with _errors_of(topic):
            found: dict[int, int] = {}
            for p in range(self._require(topic).partitions):
                path = self._path(topic, p)
                end = _end(path)
                later = (
                    record.offset
                    for record, _ in _records(path, p, 0, end)
                    if record.timestamp_ms >= wanted
                )
                found[p] = next(later, end)
            return found

    def waiting(self, topic: str, offsets: Mapping[int, int]) -> Mapping[int, int]:
        with _errors_of(topic):
            return {
                p: _lines(path, offsets.get(p, 0), _end(path))
                for p in range(self._require(topic).partitions)
                for path in (self._path(topic, p),)
            }

    def close(self) -> None:
        """Nothing stays open between calls."""

    def _line(self, message: Message) -> _Line:
        ts = milliseconds(message, self._clock)
        if message.value is None:
            return _Line(ts, message.key)
        if _fits_on_a_line(message.value):
            return _Line(ts, message.key, msgspec.Raw(message.value))
        return _Line(ts, message.key, base64=message.value)

    def _topic(self, topic: str) -> _Topic | None:
        path = self._root / topic / "topic.json"
        try:
            return _topic.decode(path.read_bytes())
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise LogUnavailable(
                f"{path} is not readable ({error}); restore it from a backup."
            ) from error

    def _require(self, topic: str) -> _Topic:
        meta = self._topic(topic)
        if meta is None:
            raise LogUnavailable(
                f"The log has no topic {topic} in {self._root}; `feedloop collect` "
                "and `feedloop import` create it."
            )
        return meta

    def _path(self, topic: str, partition: int) -> Path:
        return self._root / topic / f"{partition}.jsonl"


def _fits_on_a_line(value: bytes) -> bool:
    """Whether ``value`` is JSON that reads back byte for byte."""
    if b"\n" in value or value == b"null":
        return False
    try:
        return bytes(_json.decode(value)) == value
    except (msgspec.DecodeError, RecursionError):
        return False


def _append_all(blocks: Mapping[Path, bytes]) -> None:
    """Append each block to its file, durably, or leave every file as it was.

    The files come in one order for every process, so that their locks can't
    wait for one another in a circle. Readers wait for the locks too: they
    never see what is taken back.
    """
    with ExitStack() as locks:
        files: list[tuple[int, int]] = []
        try:
            for path, block in blocks.items():
                fd = locks.enter_context(_locked_for_append(path))
                size = os.fstat(fd).st_size
                files.append((fd, size))
                # A writer that was killed may have left a torn line.
                torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
                _write(fd, b"\n" + block if torn else block)
            for fd, _ in files:
                os.fsync(fd)
        except OSError:
            for fd, size in files:
                os.ftruncate(fd, size)
            raise


def _write(fd: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(fd, view) :]


@contextmanager
def _locked_for_append(path: Path) -> Iterator[int]:
    created = not path.exists()
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if created:
            _sync_folder(path.parent)
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _end(path: Path) -> int:
    """The byte after the last newline, once no append is under way."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        size = os.fstat(fd).st_size
    finally:
        os.close(fd)
    with path.open("rb") as file:
        return _after_last_newline(file.fileno(), size)


def _lines(path: Path, start: int, end: int) -> int:
    count = 0
    if start < end:
        with path.open("rb") as file:
            file.seek(start)
            while (left := end - file.tell()) > 0:
                count += file.read(min(left, BLOCK_BYTES)).count(b"\n")
    return count


def _after_last_newline(fd: int, size: int) -> int:
    while size > 0:
        start = max(0, size - BLOCK_BYTES)
        found = os.pread(fd, size - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        size = start
    return 0


def _check_start(topic: str, partition: int, path: Path, start: int, end: int) -> None:
    if start == 0:
        return
    if start <= end:
        with path.open("rb") as file:
            file.seek(start - 1)
            if file.read(1) == b"\n":
                return
    raise OffsetsLost(
        f"Partition {partition} of {topic} ends at {end} and has no record at "
        f"{start}, so that {path} is not the file it was; restore it from a "
        "backup, or read all that there is once more with `feedloop load "
        "--accept-loss STREAM`."
    )


def _records(
    path: Path, partition: int, start: int, end: int
) -> Iterator[tuple[Record, int]]:
    """Every record in [start, end), each with the offset that follows it."""
    if start >= end:
        return
    before: int | None = None
    with path.open("rb") as file:
        file.seek(start)
        offset = start
        while offset < end:
            text = file.readline()
            record = _decode(text, partition, offset)
            if record is None:
                if before is None:
                    before = _timestamp_before(path, offset)
                record = Record(partition, offset, before, None, text[:-1])
            before = record.timestamp_ms
            offset += len(text)
            yield record, offset


def _decode(text: bytes, partition: int, offset: int) -> Record | None:
    """The record in a line, None where the line is no envelope of one."""
    try:
        line = _line.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    value: bytes | None = line.base64
    if value is None and bytes(line.value) != b"null":
        value = bytes(line.value)
    return Record(partition, offset, line.ts, line.key, value)


def _timestamp_before(path: Path, offset: int) -> int:
    """The time of the last readable record before ``offset``, 0 without one.

    A batch that happens to begin with a torn line gives it the time that any
    other batch would.
    """
    with path.open("rb") as file:
        tail = b""
        while offset > 0:
            start = max(0, offset - BLOCK_BYTES)
            file.seek(start)
            lines = (file.read(offset - start) + tail).split(b"\n")
            for text in reversed(lines if start == 0 else lines[1:]):
                record = _decode(text, 0, 0)
                if record is not None:
                    return record.timestamp_ms
            tail, offset = lines[0], start
    return 0


@contextmanager
def _errors_of(topic: str) -> Iterator[None]:
    """An OSError as a LogUnavailable that says what to do."""
    try:
        yield
    except OSError as error:
        what = f"The log of {topic} can't be used ({error})"
        if error.errno in NO_SPACE:
            raise LogUnavailable(
                f"{what}: nothing was stored; free space on its disk and send again."
            ) from error
        raise LogUnavailable(f"{what}; mend that and try again.") from error
