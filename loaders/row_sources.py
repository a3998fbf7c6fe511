"""Files of rows, read in chunks of bounded size: CSV, JSON lines, Parquet.

What a file is shows in how it begins, not in its name; a name that ends in
``.gz``, ``.bz2``, ``.lz4`` or ``.zst`` is unpacked while it is read.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from feedloop.errors import ImportFailed
from loaders.instants import EPOCH

CHUNK_ROWS = 10_000
"""At once: what a broker acknowledges within its timeout, and what leaves
Python's garbage collector little to look through (50,000 are a fifth slower)."""
SAMPLE_ROWS = 1000
LINE_CHARACTERS = 1 << 20
DELIMITERS = ",;\t|"


class Chunk(NamedTuple):
    """Rows as columns of equal length.

    ``numbers`` are the rows' numbers in the file, from 1, a header not
    counted; ``broken`` the numbers and bytes of lines that are no rows.
    """

    numbers: Sequence[int]
    columns: Mapping[str, Sequence[Any]]
    broken: Sequence[tuple[int, bytes]] = ()


class RowSource(Protocol):
    """Something with rows; reading it twice gives the same.

    Raises ``ImportFailed`` where it can't be read.
    """

    @property
    def name(self) -> str:
        """What an error calls it."""
        ...

    @property
    def columns(self) -> Sequence[str]: ...

    @property
    def total(self) -> int | None:
        """How many rows there are, None where only reading tells."""
        ...

    def chunks(self, columns: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """``columns`` of all rows, in order, at most ``rows`` at a time."""
        ...


def open_rows(path: Path) -> RowSource:
    """The rows of a file, or ``ImportFailed`` where it has none to read."""
    if not path.is_file():
        raise ImportFailed(
            f"There is no file {path}; give the path of a CSV, JSON-lines or "
            "Parquet file."
        )
    try:
        with _unpacked(path) as file:
            head = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError as error:
        raise ImportFailed(f"{path} can't be read: {error}.") from error
    if not head:
        raise ImportFailed(f"{path} is empty; it should have a header or a first row.")
    if head.startswith(b"PAR1"):
        return ParquetRows(path)
    if head.startswith(b"{"):
        return JsonRows(path)
    if head.startswith(b"["):
        raise ImportFailed(
            f"{path} is one JSON array; write one object a line instead, as "
            f"`jq -c '.[]' {path.name}` does."
        )
    return CsvRows(path)


def _unpacked(path: Path) -> Any:
    return pa.input_stream(str(path), compression="detect")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file with their ends. Bytes that are not UTF-8 stay,
    as surrogates: only the rows they are in are bad."""
    try:
        with (
            _unpacked(path) as raw,
            io.TextIOWrapper(
                raw, encoding="utf-8-sig", errors="surrogateescape", newline=""
            ) as file,
        ):
            number = 0
            while line := file.readline(LINE_CHARACTERS):
                number += 1
                if len(line) == LINE_CHARACTERS:
                    raise ImportFailed(
                        f"{path}, line {number} is longer than {LINE_CHARACTERS} "
                        "characters; is it a text file with one row a line?"
                    )
                yield line
    except OSError as error:
        raise ImportFailed(f"{path} can't be read: {error}.") from error


def _bytes(text: str) -> bytes:
    return text.rstrip("\r\n").encode("utf-8", "surrogateescape")


class CsvRows:
    """A CSV file with a header. Empty cells are None.

    Python's reader and not Arrow's: that one stops at a line which has too few
    fields or is not UTF-8, and such a line must not take the others with it.
    """

    total = None

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        first = next(_lines(path), "")
        self._delimiter = max(DELIMITERS, key=first.count)
        self.columns: Sequence[str] = next(
            csv.reader([first], delimiter=self._delimiter), []
        )
        doubled = {name for name in self.columns if self.columns.count(name) > 1}
        if doubled:
            raise ImportFailed(
                f"{path} has more than one column {min(doubled)!r}; give every "
                "column a name of its own in its first line."
            )

    def chunks(self, columns: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
        width = len(self.columns)
        numbers: list[int] = []
        good: list[list[str]] = []
        broken: list[tuple[int, bytes]] = []
        read: list[str] = []
        number = 0
        reader = csv.reader(_kept(_lines(self._path), read), delimiter=self._delimiter)
        try:
            next(reader)
            read.clear()
            for row in reader:
                if row:
                    number += 1
                    if len(row) == width:
                        good.append(row)
                        numbers.append(number)
                    else:
                        broken.append((number, _bytes("".join(read))))
                    if len(good) + len(broken) >= rows:
                        yield self._chunk(columns, numbers, good, broken)
                        numbers, good, broken = [], [], []
                read.clear()
        except csv.Error as error:
            raise ImportFailed(
                f"{self.name}, row {number + 1} (the header not counted) is no CSV: "
                f"{error}; is there a quote that is never closed?"
            ) from error
        yield self._chunk(columns, numbers, good, broken)

    def _chunk(
        self,
        columns: Sequence[str],
        numbers: Sequence[int],
        rows: Sequence[list[str]],
        broken: Sequence[tuple[int, bytes]],
    ) -> Chunk:
        values = list(zip(*rows, strict=True)) or [()] * len(self.columns)
        at = {name: values[index] for index, name in enumerate(self.columns)}
        chosen = {name: [value or None for value in at[name]] for name in columns}
        return Chunk(numbers, chosen, broken)


def _kept(lines: Iterable[str], kept: list[str]) -> Iterator[str]:
    """``lines``, each put into ``kept`` as it goes by."""
    for line in lines:
        kept.append(line)
        yield line


class JsonRows:
    """A file with one JSON object a line; its columns are the keys of the
    first thousand."""

    total = None

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        keys: dict[str, None] = {}
        for number, (_, row) in enumerate(self._rows()):
            if number == SAMPLE_ROWS:
                break
            if isinstance(row, dict):
                keys |= dict.fromkeys(row)
        self.columns: Sequence[str] = list(keys)

    def chunks(self, columns: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
        numbers: list[int] = []
        good: list[dict[str, Any]] = []
        broken: list[tuple[int, bytes]] = []
        for number, row in self._rows():
            if isinstance(row, dict):
                numbers.append(number)
                good.append(row)
            else:
                broken.append((number, row))
            if len(good) + len(broken) >= rows:
                yield _from_objects(columns, numbers, good, broken)
                numbers, good, broken = [], [], []
        yield _from_objects(columns, numbers, good, broken)

    def _rows(self) -> Iterator[tuple[int, dict[str, Any] | bytes]]:
        """The number and object of every line, its bytes where it is none."""
        decode = msgspec.json.Decoder(dict[str, Any]).decode
        number = 0
        for line in _lines(self._path):
            if line.isspace():
                continue
            number += 1
            try:
                yield number, decode(line)
            except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
                yield number, _bytes(line)


def _from_objects(
    columns: Sequence[str],
    numbers: Sequence[int],
    rows: Sequence[dict[str, Any]],
    broken: Sequence[tuple[int, bytes]],
) -> Chunk:
    values = {name: [row.get(name) for row in rows] for name in columns}
    return Chunk(numbers, values, broken)


class ParquetRows:
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        try:
            with pq.ParquetFile(path) as file:
                self.columns: Sequence[str] = file.schema_arrow.names
                self.total: int | None = file.metadata.num_rows
        except (OSError, pa.ArrowException) as error:
            raise ImportFailed(
                f"{path} is not a whole Parquet file: {error}."
            ) from error

    def chunks(self, columns: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
        number = 1
        try:
            with pq.ParquetFile(self._path) as file:
                for batch in file.iter_batches(rows, columns=list(columns)):
                    values = {name: plain_values(batch[name]) for name in columns}
                    yield Chunk(range(number, number + batch.num_rows), values)
                    number += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            raise ImportFailed(
                f"{self.name} can't be read from row {number} on: {error}."
            ) from error


def plain_values(array: pa.Array) -> list[Any]:
    """The values of an Arrow array as Python has them; instants in UTC.

    A time that Python's calendar doesn't have stays a number.
    """
    kind = array.type
    if pa.types.is_timestamp(kind):
        micros = array.cast(pa.timestamp("us", kind.tz), safe=False)
        return [_instant(value) for value in micros.cast(pa.int64()).to_pylist()]
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    # ten times as fast, but it would make floats of integers with gaps
    by_numpy = number and array.null_count == 0
    values: list[Any] = array.to_numpy().tolist() if by_numpy else array.to_pylist()
    return values


def _instant(micros: int | None) -> Any:
    if micros is None:
        return None
    try:
        return EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        return micros


class MemoryRows:
    """Rows that are in memory already, with the numbers they have in a file."""

    def __init__(
        self, name: str, numbers: Sequence[int], values: Mapping[str, Sequence[Any]]
    ) -> None:
        self.name = name
        self.columns: Sequence[str] = list(values)
        self.total: int | None = len(numbers)
        self._numbers = numbers
        self._values = values

    def chunks(self, columns: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
        for first in range(0, len(self._numbers), rows):
            part = slice(first, first + rows)
            values = {name: self._values[name][part] for name in columns}
            yield Chunk(self._numbers[part], values)
