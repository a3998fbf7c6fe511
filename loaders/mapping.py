"""Which column of a file fills which field of a stream's contract.

What fields there are, which must be filled and what they hold is read from the
contracts themselves, so that a new field can be mapped the day it is declared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

import msgspec
from msgspec import inspect

from feedloop.contracts.catalogue import Item, User
from feedloop.contracts.events import Event, PromotedContext
from feedloop.contracts.log import EVENTS, ITEMS, USERS
from feedloop.errors import ImportFailed


class Kind(Enum):
    """What a field holds."""

    TEXT = auto()
    INTEGER = auto()
    NUMBER = auto()
    BOOLEAN = auto()
    TIME = auto()
    LIST = auto()
    OBJECT = auto()
    ANY = auto()


@dataclass(frozen=True)
class Target:
    """A stream as something to import into.

    ``fields`` are its contract's; ``made`` is the id that import makes where
    no column is mapped to it; ``open_field`` holds any further keys, of which
    ``typed_keys`` have a kind of their own.
    """

    stream: str
    fields: Mapping[str, Kind]
    required: tuple[str, ...]
    key: str
    time: str
    open_field: str
    typed_keys: Mapping[str, Kind]
    made: str | None = None

    def kind(self, name: str) -> Kind | None:
        """What ``name`` holds; None where there is no such field."""
        if name in self.fields:
            return self.fields[name]
        outer, _, key = name.partition(".")
        if outer == self.open_field and key:
            return self.typed_keys.get(key, Kind.ANY)
        return None


_KINDS = {
    inspect.StrType: Kind.TEXT,
    inspect.IntType: Kind.INTEGER,
    inspect.FloatType: Kind.NUMBER,
    inspect.BoolType: Kind.BOOLEAN,
    inspect.DateTimeType: Kind.TIME,
    inspect.ListType: Kind.LIST,
    inspect.RawType: Kind.OBJECT,
}


def _kinds(contract: type[msgspec.Struct]) -> dict[str, Kind]:
    return {field.name: _kind(field.type) for field in _fields(contract)}


def _fields(contract: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    described = inspect.type_info(contract)
    if not isinstance(described, inspect.StructType):
        raise TypeError(f"{contract} is no Struct")
    return described.fields


def _kind(described: inspect.Type) -> Kind:
    if isinstance(described, inspect.UnionType):
        (described,) = (
            one for one in described.types if not isinstance(one, inspect.NoneType)
        )
    if isinstance(described, inspect.Metadata):
        described = described.type
    return _KINDS[type(described)]


def _target(
    stream: str,
    contract: type[msgspec.Struct],
    *,
    key: str,
    time: str,
    open_field: str,
    typed_keys: Mapping[str, Kind],
    made: str | None = None,
) -> Target:
    required = (f.name for f in _fields(contract) if f.required and f.name != made)
    return Target(
        stream=stream,
        fields=_kinds(contract),
        required=tuple(required),
        key=key,
        time=time,
        open_field=open_field,
        typed_keys=typed_keys,
        made=made,
    )


TARGETS: Mapping[str, Target] = {
    EVENTS: _target(
        EVENTS,
        Event,
        key="user_id",
        time="occurred_at",
        open_field="context",
        typed_keys=_kinds(PromotedContext),
        made="event_id",
    ),
    ITEMS: _target(
        ITEMS,
        Item,
        key="item_id",
        time="published_at",
        open_field="metadata",
        typed_keys={},
    ),
    USERS: _target(
        USERS,
        User,
        key="user_id",
        time="created_at",
        open_field="metadata",
        typed_keys={},
    ),
}


@dataclass(frozen=True)
class Column:
    """The values of a column of the file."""

    name: str

    def __str__(self) -> str:
        plain = re.fullmatch(r"""[^,'"\s][^,'"]*""", self.name)
        return self.name if plain else f'"{self.name}"'


@dataclass(frozen=True)
class Constant:
    """The same value in every row."""

    value: str

    def __str__(self) -> str:
        return f"'{self.value}'"


@dataclass(frozen=True)
class FieldMap:
    """What fills each field of ``target``."""

    target: Target
    sources: Mapping[str, Column | Constant]

    def columns(self) -> list[str]:
        """The columns that are read, each once."""
        names = (s.name for s in self.sources.values() if isinstance(s, Column))
        return list(dict.fromkeys(names))

    def source_of(self, field: str) -> str:
        """Where the value of ``field`` (as an error names it) came from."""
        while field:
            source = self.sources.get(field)
            if isinstance(source, Column):
                return f"column {source.name!r} ({field})"
            if isinstance(source, Constant):
                return f"the constant {source} ({field})"
            field = field.rpartition(".")[0]
        return "the row"

    def check_columns(self, path: str, columns: Iterable[str]) -> None:
        """Raises ``ImportFailed`` for a column that the file doesn't have."""
        known = list(columns)
        for field, source in self.sources.items():
            if isinstance(source, Column) and source.name not in known:
                raise ImportFailed(
                    f"{path} has no column {source.name!r} to fill {field}; it has "
                    f"{', '.join(map(repr, known))}. (A constant stands in single "
                    f"quotes: --map \"{field}='{source.name}'\".)"
                )

    def __str__(self) -> str:
        return ",".join(f"{field}={source}" for field, source in self.sources.items())


# field=column, field="odd column" or field='constant', up to a comma or the end
_ENTRY = re.compile(
    r"""\s*([^=,'"]+?)\s*=\s*(?:'([^']*)'|"([^"]*)"|([^,'"]+?))\s*(?:,|$)"""
)


def parse_map(texts: Iterable[str], target: Target) -> FieldMap:
    """The mapping that ``--map`` says, one or several times.

    Raises ``ImportFailed`` for what can't be read, an unknown or twice mapped
    field, and a required field that nothing fills.
    """
    sources: dict[str, Column | Constant] = {}
    for text in texts:
        position = 0
        while position < len(text):
            found = _ENTRY.match(text, position)
            if found is None:
                raise ImportFailed(
                    f"--map can't be read from {text[position:]!r} on; it is written "
                    "field=column,field='constant', as in user_id=visitor,"
                    "event_type='click'."
                )
            field, constant, quoted, plain = found.groups()
            if field in sources:
                raise ImportFailed(f"--map fills {field} twice; leave one of them out.")
            sources[field] = (
                Column(quoted or plain) if constant is None else Constant(constant)
            )
            position = found.end()
    return checked_map(sources, target)


def checked_map(sources: Mapping[str, Column | Constant], target: Target) -> FieldMap:
    """``sources`` as a mapping, or ``ImportFailed`` (see ``parse_map``)."""
    open_field = target.open_field
    for field in sources:
        if target.kind(field) is None:
            raise ImportFailed(
                f"{target.stream} have no field {field!r} to map to; they have "
                f"{', '.join(target.fields)} and {open_field}.<any key>."
            )
    keys = [field for field in sources if field.startswith(f"{open_field}.")]
    if open_field in sources and keys:
        raise ImportFailed(
            f"--map fills {open_field} as a whole and {keys[0]} too; choose one."
        )
    missing = [field for field in target.required if field not in sources]
    if missing:
        raise ImportFailed(
            f"Nothing is mapped to {', '.join(missing)}, which all {target.stream} "
            "need; add it to --map, or see what --dry-run proposes."
        )
    return FieldMap(target, dict(sources))
