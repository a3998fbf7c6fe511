"""Values of a file as a contract wants them.

A value that can't be converted stays as it is: it goes to the log like that,
and the loader, which alone knows the rules, makes a dead letter of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from loaders.instants import EPOCH, LAST_MS
from loaders.mapping import Kind

UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}
"""Microseconds of each unit a unix time may have."""

LIST_SEPARATOR = "|"

_UNIX_TEXT = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,9})?")


def convert(values: Sequence[Any], kind: Kind, time_unit: str | None) -> list[Any]:
    """``values`` as ``kind``, None kept.

    ``time_unit`` is a key of ``UNITS``; None recognises it by magnitude.
    """
    if kind is Kind.ANY:
        return list(values)
    if kind is Kind.TIME:
        unit = _one_unit(values, time_unit)
        if unit is not None:
            return [EPOCH + timedelta(microseconds=value * unit) for value in values]
        return [to_time(value, time_unit) for value in values]
    if kind is Kind.TEXT:
        types = set(map(type, values))
        if types <= {str, type(None)}:
            return list(values)
        if types == {int}:
            return list(map(str, values))
    one = _CONVERTERS[kind]
    return [None if value is None else one(value) for value in values]


def _one_unit(values: Sequence[Any], time_unit: str | None) -> int | None:
    """The unit of ``values`` where they are whole numbers of this age and one
    unit fits all: three times as fast as looking at each."""
    if set(map(type, values)) != {int}:
        return None
    ends = min(values), max(values)
    units = {_unit(end, time_unit) for end in ends}
    unit = units.pop()
    if units or not 0 <= ends[0] * unit <= ends[1] * unit <= LAST_MS * 1000:
        return None
    return unit


def to_time(value: Any, time_unit: str | None) -> Any:
    """ISO text, unix time (a number or its text), date or datetime as an
    instant in UTC; what has no zone is UTC."""
    if isinstance(value, str):
        text = value.strip()
        if _UNIX_TEXT.fullmatch(text):
            return _unix_time(Decimal(text), time_unit, value)
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            return value
        return _in_utc(at, value)
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float, Decimal)):
        return _unix_time(value, time_unit, value)
    if isinstance(value, datetime):
        return _in_utc(value, value)
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    return value


def _unit(number: Any, time_unit: str | None) -> int:
    """Microseconds of the unit; without a name seconds go up to the year 5138
    and milliseconds from 1973 on."""
    if time_unit is not None:
        return UNITS[time_unit]
    size = abs(number)
    return 1_000_000 if size < 10**11 else 1_000 if size < 10**14 else 1


def _in_utc(at: datetime, original: Any) -> Any:
    if at.tzinfo is None:
        return at.replace(tzinfo=UTC)
    try:
        return at.astimezone(UTC)
    except OverflowError:  # the first or last hours of the calendar
        return original


def _unix_time(number: Any, time_unit: str | None, original: Any) -> Any:
    try:
        micros = round(number * _unit(number, time_unit))
        return EPOCH + timedelta(microseconds=micros)
    except (OverflowError, ValueError):  # beyond the calendar, or not a number
        return original


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return str(value)
    # a column of whole numbers with gaps is often stored as floats
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return value


def _lenient(wanted: type) -> Callable[[Any], Any]:
    def one(value: Any) -> Any:
        try:
            converted: Any = msgspec.convert(value, wanted, strict=False)
        except msgspec.ValidationError:
            return value
        if isinstance(value, str) and not math.isfinite(converted):
            return value  # JSON has no such number: it would become null
        return converted

    return one


def _list(value: Any) -> Any:
    if isinstance(value, str):
        if value.startswith("["):
            try:
                return msgspec.json.decode(value, type=list[Any])
            except msgspec.DecodeError:
                return value
        parts = (part.strip() for part in value.split(LIST_SEPARATOR))
        return [part for part in parts if part]
    if isinstance(value, list):
        return [_text(one) for one in value]
    return value


def _object(value: Any) -> Any:
    """JSON text of an object as it is, so that no number in it changes."""
    if isinstance(value, str):
        try:
            msgspec.json.decode(value, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            return value
        return msgspec.Raw(value)
    return value


_CONVERTERS: dict[Kind, Callable[[Any], Any]] = {
    Kind.TEXT: _text,
    Kind.INTEGER: _lenient(int),
    Kind.NUMBER: _lenient(float),
    Kind.BOOLEAN: _lenient(bool),
    Kind.LIST: _list,
    Kind.OBJECT: _object,
}
