"""What ``feedloop import --dry-run`` proposes: a mapping for a file, from the
names of its columns and the values of its first rows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from feedloop.contracts.events import EARLIEST
from feedloop.contracts.log import EVENTS, ITEMS, USERS
from loaders.conversion import convert
from loaders.mapping import Column, Constant, FieldMap, Kind, Target
from loaders.row_sources import SAMPLE_ROWS, Chunk, RowSource

LATEST = datetime(2100, 1, 1, tzinfo=UTC)

# The names by which a field goes elsewhere, in small letters and without
# signs, the most telling first; as a part of a longer name they count less.
_SYNONYMS: Mapping[str, str] = {
    "event_id": "eventid eventuuid",
    "user_id": "userid visitorid customerid memberid user "
    "visitor customer member profileid",
    "item_id": "itemid productid articleid movieid trackid contentid newsid item "
    "product article movie track sku asin",
    "event_type": "eventtype event action actiontype interaction behaviortype type",
    "event_value": "eventvalue rating score price value amount",
    "occurred_at": "occurredat timestamp eventtime time ts datetime createdat date",
    "context.session_id": "sessionid session",
    "context.device": "device devicetype devicegroup",
    "context.surface": "surface placement",
    "context.page_position": "pageposition position rank slot",
    "context.dwell_time_ms": "dwelltimems dwellms",
    "context.request_id": "requestid",
    "context.model_version": "modelversion",
    "category": "category categoryid genre section topic",
    "published_at": "publishedat publishdate releasedate createdat date",
    "is_active": "isactive active available",
    "title": "title name headline",
    "description": "description abstract summary text",
    "tags": "tags genres keywords",
    "created_at": "createdat signupdate registeredat timestamp date",
    "country": "country countrycode",
    "segment": "segment occupation",
    "device": "device",
    "referral_source": "referralsource referrer source",
    "declared_preferences": "declaredpreferences preferences interests",
    "context": "context",
    "metadata": "metadata",
}
# Short names would be found in many others: "ts" in "counts".
_LETTERS_OF_A_PART = 4
# What a file of each stream may call its own id, and no other stream's.
_PLAIN_ID = {ITEMS: "item_id", USERS: "user_id"}


@dataclass(frozen=True)
class Proposal:
    """A mapping as far as it shows in a file.

    ``missing`` are the required fields that nothing fills, ``unused`` the
    columns that fill nothing; ``remarks`` are sentences for a person.
    """

    target: Target
    sources: Mapping[str, Column | Constant]
    missing: Sequence[str]
    unused: Sequence[str]
    remarks: Sequence[str]

    def command(self, path: str) -> str:
        """The command to run; what is missing is to be filled in, and as it
        stands is refused."""
        blanks = {name: Column("COLUMN") for name in self.missing}
        mapping = FieldMap(self.target, {**self.sources, **blanks})
        into = [] if self.target.stream == EVENTS else ["--into", self.target.stream]
        words = ["feedloop", "import", path, *into, "--map", str(mapping)]
        return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """``word`` for a shell, in double quotes where they do: a mapping has
    single ones of its own."""
    if shlex.quote(word) == word:
        return word
    return shlex.quote(word) if set('"$`\\!') & set(word) else f'"{word}"'


def propose(source: RowSource, target: Target, event_types: Sequence[str]) -> Proposal:
    """A mapping of ``source`` to ``target``. Raises ``ImportFailed`` where the
    file can't be read."""
    sample = next(source.chunks(source.columns, SAMPLE_ROWS), Chunk([], {}))
    sources: dict[str, Column | Constant] = {}
    remarks: list[str] = []
    free = list(source.columns)
    for exact in (True, False):
        for field in _proposed_fields(target):
            if field not in sources and (
                name := _by_name(field, target, free, sample, exact)
            ):
                sources[field] = Column(name)
                free.remove(name)
    if target.time not in sources and (name := _by_time(free, sample)):
        sources[target.time] = Column(name)
        free.remove(name)
    if target.stream == EVENTS:
        remarks += _about_types(sources, sample, event_types)
    missing = [name for name in target.required if name not in sources]
    for name in missing:
        remarks.append(
            f"Nothing looks like {name}: name a column, or a constant in quotes "
            "that holds for every row."
        )
    if free:
        remarks.append(
            f"Not used: {', '.join(free)}. {target.open_field}.NAME=COLUMN keeps a "
            "column."
        )
    return Proposal(target, sources, missing, free, remarks)


def _proposed_fields(target: Target) -> list[str]:
    """The required fields first: they choose before the others."""
    typed = [f"{target.open_field}.{key}" for key in target.typed_keys]
    optional = [name for name in target.fields if name not in target.required]
    return [*target.required, *optional, *typed]


def _by_name(
    field: str, target: Target, free: Sequence[str], sample: Chunk, exact: bool
) -> str | None:
    """The free column whose name says that it is ``field`` and whose values
    don't speak against it."""
    synonyms = _SYNONYMS.get(field, "").split()
    if field == _PLAIN_ID.get(target.stream):
        synonyms.append("id")
    for synonym in synonyms:
        for name in free:
            plain = re.sub(r"[^a-z0-9]", "", name.lower())
            part = len(synonym) >= _LETTERS_OF_A_PART and synonym in plain
            if (plain == synonym if exact else part) and _fits(
                sample.columns.get(name, ()), target.kind(field)
            ):
                return name
    return None


def _fits(values: Sequence[Any], kind: Kind | None) -> bool:
    given = [value for value in values if value is not None]
    if not given or kind is None:
        return kind is not None
    converted = convert(given, kind, None)
    if kind is Kind.TIME:
        usable = sum(_is_likely(at) for at in converted)
    elif kind in (Kind.NUMBER, Kind.INTEGER):
        usable = sum(isinstance(value, (int, float)) for value in converted)
    elif kind is Kind.TEXT:
        usable = sum(isinstance(value, str) for value in converted)
    else:
        return True
    return usable * 2 >= len(given)  # the others may be bad rows


def _is_likely(at: Any) -> bool:
    return isinstance(at, datetime) and EARLIEST <= at < LATEST


def _by_time(free: Sequence[str], sample: Chunk) -> str | None:
    return next(
        (
            name
            for name in free
            if sample.columns.get(name) and _all_times(sample.columns[name])
        ),
        None,
    )


def _all_times(values: Sequence[Any]) -> bool:
    return all(_is_likely(at) for at in convert(values, Kind.TIME, None))


def _about_types(
    sources: dict[str, Column | Constant],
    sample: Chunk,
    event_types: Sequence[str],
) -> list[str]:
    """What is to be said of the types; a file of ratings gets that type."""
    source = sources.get("event_type")
    if isinstance(source, Column):
        found = {str(value) for value in sample.columns.get(source.name, ())}
        unknown = sorted(found - set(event_types))
        if unknown:
            return [
                f"No event type yet: {', '.join(unknown)}. Give each a row in "
                "seeds/event_types.csv, or rename it in the file; else its rows "
                "become dead letters."
            ]
        return []
    value = sources.get("event_value")
    if isinstance(value, Column) and "rating" in value.name.lower():
        sources["event_type"] = Constant("rating")
        return [f"Column {value.name!r} makes every row an event of type 'rating'."]
    return [f"Event types are {', '.join(event_types)}."]
