"""A process that reads and decodes some partitions on behalf of a loader.

    python -m loaders.reader_process STREAM

It has the settings of its environment. An ``Order`` a line comes in; for each
go out a ``Told`` a line with two Arrow streams behind it, rows and dead
letters, for every part, and then a ``Told`` that is the last. It holds nothing
that a kill could harm, and ends when nobody is there to order any more.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import BinaryIO

import msgspec
import pyarrow as pa

from feedloop.clock import SystemClock
from feedloop.errors import FeedloopError
from feedloop.settings import from_environment
from loaders.log import open_log
from loaders.reading import PartReader


class Order(msgspec.Struct, frozen=True):
    """Read ``most`` records of ``partitions``, ``part_records`` a part."""

    partitions: list[int]
    offsets: dict[int, int]
    load_seq: int
    most: int
    part_records: int


class Told(msgspec.Struct, frozen=True):
    """``last``: nothing follows. ``error`` and ``sentence`` are the name and
    the text of what was raised."""

    offsets: dict[int, int] = {}
    last: bool = False
    error: str | None = None
    sentence: str = ""


def main(stream: str, orders: BinaryIO, answers: BinaryIO) -> None:
    settings = from_environment()
    with closing(open_log(settings, SystemClock())) as log:
        for line in orders:
            order = msgspec.json.decode(line, type=Order)
            reader = PartReader(
                settings, log, stream, order.partitions, order.part_records
            )
            try:
                for part in reader.parts(order.offsets, order.load_seq, order.most):
                    _tell(answers, Told(dict(part.offsets)), (part.rows, part.dead))
                _tell(answers, Told(last=True))
            except FeedloopError as error:
                kind = type(error).__name__
                _tell(answers, Told(last=True, error=kind, sentence=str(error)))


def _tell(answers: BinaryIO, told: Told, tables: Sequence[pa.Table] = ()) -> None:
    answers.write(msgspec.json.encode(told) + b"\n")
    for table in tables:
        with pa.ipc.new_stream(answers, table.schema) as stream:
            stream.write_table(table)
    answers.flush()


if __name__ == "__main__":
    # Told to stop, the loader finishes its commit, for which it needs this one.
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    try:
        main(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        os._exit(0)  # the loader has gone
