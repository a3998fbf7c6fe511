"""Several processes that read for one loader, each its share of the partitions.

Reading and decoding take most of a load's time and need nothing of the table,
so that they are shared out; finding duplicates, files and the commit stay with
the one loader. A part of the batch is a part of every process together: which
of two events with one id is the first is decided over the same records as where
the loader reads by itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import msgspec
import pyarrow as pa

from feedloop import errors
from feedloop.contracts.log import EventLog
from feedloop.errors import FeedloopError, ReaderLost
from feedloop.processes import usable_cores
from feedloop.settings import Settings, to_environment
from loaders.reader_process import Order, Told
from loaders.reading import PART_RECORDS, Offsets, Part, PartReader

MOST_READERS = 4
"""More decode faster than one loader writes."""


class Readers:
    """``Reading`` by the loader itself, or by several processes where so much
    is waiting that their start is worth it. Close it."""

    def __init__(self, settings: Settings, log: EventLog, stream: str) -> None:
        self._settings = settings
        self._log = log
        self._stream = stream
        self._alone = PartReader(settings, log, stream)
        self._processes: list[_Process] = []
        self._reading = False

    def parts(self, offsets: Offsets, load_seq: int, most: int) -> Iterator[Part]:
        """Raises as ``ReadableLog.read`` does, and ``ReaderLost``."""
        if self._reading:  # what was begun is not wanted any more
            self.close()
        if not self._processes:
            self._start(offsets)
        if not self._processes:
            yield from self._alone.parts(offsets, load_seq, most)
            return
        self._reading = True
        yield from self._together(offsets, load_seq, most)
        self._reading = False

    @property
    def pids(self) -> list[int]:
        """The processes that read now."""
        return [process.pid for process in self._processes]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        self._processes = []
        self._reading = False

    def _start(self, offsets: Offsets) -> None:
        wanted = self._settings.load_readers or min(usable_cores(), MOST_READERS)
        if wanted == 1:
            return
        waiting = self._log.waiting(self._settings.topic(self._stream), offsets)
        if sum(waiting.values()) < self._settings.load_readers_from:
            return
        shares = shared_out(waiting, wanted)
        if len(shares) > 1:
            for share in shares:
                self._processes.append(_Process(self._settings, self._stream, share))

    def _together(self, offsets: Offsets, load_seq: int, most: int) -> Iterator[Part]:
        count = len(self._processes)
        for number, process in enumerate(self._processes):
            share = (most + number) // count
            process.order(offsets, load_seq, share, PART_RECORDS // count)
        reached = dict(offsets)
        busy = list(self._processes)
        while busy:
            found = [(process, process.part()) for process in busy]
            busy = [process for process, part in found if part is not None]
            parts = [part for _, part in found if part is not None]
            if not parts:
                return
            for part in parts:
                reached |= part.offsets
            yield Part(
                pa.concat_tables([part.rows for part in parts]),
                pa.concat_tables([part.dead for part in parts]),
                dict(reached),
            )


def shared_out(waiting: Mapping[int, int], readers: int) -> list[list[int]]:
    """The partitions of each of at most ``readers``, none of which has nothing
    to do: the fullest partition first, each to whom has least by then."""
    busy = sum(1 for records in waiting.values() if records)
    shares: list[list[int]] = [[] for _ in range(min(readers, busy))]
    if not shares:
        return []
    sizes = [0] * len(shares)
    for p in sorted(waiting, key=lambda p: (-waiting[p], p)):
        least = sizes.index(min(sizes))
        shares[least].append(p)
        sizes[least] += waiting[p]
    return shares


class _Process:
    """One of the processes, from its partner's side."""

    def __init__(
        self, settings: Settings, stream: str, partitions: Sequence[int]
    ) -> None:
        self._partitions = list(partitions)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loaders.reader_process", stream],
            env=os.environ | to_environment(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout

    @property
    def pid(self) -> int:
        return self._process.pid

    def order(
        self, offsets: Offsets, load_seq: int, most: int, part_records: int
    ) -> None:
        known = {p: offsets[p] for p in self._partitions if p in offsets}
        order = Order(self._partitions, known, load_seq, most, part_records)
        try:
            self._orders.write(msgspec.json.encode(order) + b"\n")
            self._orders.flush()
        except BrokenPipeError as error:
            raise self._lost() from error

    def part(self) -> Part | None:
        """The next part of what was ordered; None where it is complete."""
        try:
            line = self._answers.readline()
            if not line.endswith(b"\n"):
                raise self._lost()
            told = msgspec.json.decode(line, type=Told)
            if told.error is not None:
                raise _error(told)
            if told.last:
                return None
            rows, dead = (
                pa.ipc.open_stream(self._answers).read_all() for _ in range(2)
            )
        except (OSError, pa.ArrowInvalid) as error:
            raise self._lost() from error
        return Part(rows, dead, told.offsets)

    def _lost(self) -> ReaderLost:
        self._process.kill()
        code = self._process.wait()
        return ReaderLost(
            f"The process that reads partitions {self._partitions} for the loader "
            f"has ended (exit code {code}), and this batch was left out; load again: "
            "it goes on from the table's offsets."
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._answers.close()
        with suppress(BrokenPipeError):  # of an order that it never read
            self._orders.close()


def _error(told: Told) -> FeedloopError:
    kind: type[FeedloopError] = getattr(errors, told.error or "")
    return kind(told.sentence)
