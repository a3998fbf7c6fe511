"""The public datasets that can be imported by name.

Each function takes the dataset's folder and a cut, and gives what to import,
items and users first. The files bring little more than events: who and what
there is, and since when, follows from the first time it is seen in them. With
a cut, nobody and nothing is known that was first seen after its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from feedloop.contracts.log import EVENTS, ITEMS, USERS
from feedloop.errors import ImportFailed
from loaders.instants import EPOCH
from loaders.mapping import TARGETS, Column, Constant, checked_map
from loaders.messages import Cut, MessageBuilder, Part, catalogue_messages
from loaders.row_sources import MemoryRows, ParquetRows, RowSource, plain_values

Record = dict[str, Any]

GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
MONTHS = (
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sep",
    "Oct",
    "Nov",
    "Dec",
)
AGE_BANDS = (
    (18, "under 18"),
    (25, "18-24"),
    (35, "25-34"),
    (45, "35-44"),
    (55, "45-54"),
)
OLDEST_BAND = "55+"
RETAILROCKET_TYPES = {"view": "view", "cart": "save", "buy": "purchase"}


@dataclass(frozen=True)
class EventColumns:
    """Where a file's events have what the first sight of a user or item needs.

    ``unit`` is that of ``time``, in microseconds; ``about_user`` are columns
    of what is told of a user.
    """

    user: str
    item: str
    time: str
    unit: int
    about_user: Sequence[str] = ()

    def instant(self, time: int) -> datetime:
        return EPOCH + timedelta(microseconds=time * self.unit)

    def whole(self, at: datetime) -> int:
        """The first time in the file's unit that is not before ``at``."""
        return -((EPOCH - at) // timedelta(microseconds=self.unit))


@dataclass(frozen=True)
class FirstSights:
    """When each item and user was first seen, in the order in which they were;
    ``about`` has a user's values of ``about_user`` at that time."""

    items: Mapping[int, datetime]
    users: Mapping[int, datetime]
    about: Mapping[int, tuple[Any, ...]]


def first_sights(source: RowSource, columns: EventColumns, cut: Cut) -> FirstSights:
    """Who and what is seen before the end of ``cut`` in events that are in
    order of time."""
    since = columns.whole(cut.since) if cut.since else None
    until = columns.whole(cut.until) if cut.until else None
    items: dict[int, int] = {}
    users: dict[int, tuple[Any, ...]] = {}
    in_cut = 0
    names = (columns.time, columns.item, columns.user, *columns.about_user)
    for chunk in source.chunks(names):
        values = [chunk.columns[name] for name in names]
        for time, item, user, *about in zip(*values, strict=True):
            if until is not None and time >= until:
                break
            if cut.limit is not None and in_cut >= cut.limit:
                break
            in_cut += since is None or time >= since
            if item not in items:
                items[item] = time
            if user not in users:
                users[user] = (time, *about)
    return FirstSights(
        items={item: columns.instant(time) for item, time in items.items()},
        users={user: columns.instant(time) for user, (time, *_) in users.items()},
        about={user: tuple(about) for user, (_, *about) in users.items()},
    )


def _catalogue(
    stream: str, name: str, total: int, records: Callable[[], Iterator[Record]]
) -> Part:
    return Part(
        stream=stream,
        name=name,
        total=total,
        build=lambda: catalogue_messages(records(), TARGETS[stream]),
    )


def _events(
    scope: str,
    source: RowSource,
    cut: Cut,
    sources: Mapping[str, Column | Constant],
    time_unit: str,
) -> Part:
    field_map = checked_map(sources, TARGETS[EVENTS])
    field_map.check_columns(source.name, source.columns)
    builder = MessageBuilder(field_map, scope=scope, time_unit=time_unit)
    return Part(
        stream=EVENTS,
        name=source.name,
        total=source.total,
        build=lambda: builder.built(source, cut),
        field_map=field_map,
    )


# --- MovieLens ---------------------------------------------------------------


def movielens_100k(folder: Path, cut: Cut) -> list[Part]:
    """Ratings as events of type ``rating``, with the rating as their value.

    A film's first genre is its category and all are its tags; it is published
    on its release date, or where there is none, or one after its first rating,
    at its first rating. A user's occupation is their segment.
    """
    columns = EventColumns(user="user", item="item", time="time", unit=1_000_000)
    names = ("user", "item", "rating", "time")
    ratings = _in_order(
        _table(folder / "u.data", "\t", dict.fromkeys(names, pa.int64())),
        str(folder / "u.data"),
        "time",
    )
    sights = first_sights(ratings, columns, cut)
    films = _films(folder / "u.item")
    people = _people(folder / "u.user")
    for path, known, seen in (
        (folder / "u.item", films, sights.items),
        (folder / "u.user", people, sights.users),
    ):
        unknown = [one for one in seen if one not in known]
        if unknown:
            raise ImportFailed(
                f"{path} has no row for {unknown[0]}, which {ratings.name} names; "
                "fetch the dataset again."
            )

    def items() -> Iterator[Record]:
        for number, first in sights.items.items():
            film = films[number]
            released = film["published_at"]
            usable = released is not None and released <= first
            yield film | {"published_at": released if usable else first}

    def users() -> Iterator[Record]:
        for number, first in sights.users.items():
            yield people[number] | {"created_at": first}

    return [
        _catalogue(ITEMS, str(folder / "u.item"), len(sights.items), items),
        _catalogue(USERS, str(folder / "u.user"), len(sights.users), users),
        _events(
            "movielens-100k",
            ratings,
            cut,
            {
                "user_id": Column("user"),
                "item_id": Column("item"),
                "event_type": Constant("rating"),
                "occurred_at": Column("time"),
                "event_value": Column("rating"),
            },
            "s",
        ),
    ]


def _films(path: Path) -> dict[int, Record]:
    names = ["id", "title", "released", "video_released", "url", *GENRES]
    types = dict.fromkeys(names, pa.string()) | dict.fromkeys(GENRES, pa.int8())
    rows = _table(path, "|", types | {"id": pa.int64()}, "latin-1").to_pylist()
    films = {}
    for number, row in enumerate(rows, start=1):
        genres = [genre for genre in GENRES if row[genre]]
        released = _release_date(row["released"], path, number)
        metadata = {"imdb_url": row["url"]} if row["url"] else {}
        if released is not None:
            metadata["released"] = released.date().isoformat()
        films[row["id"]] = {
            "item_id": str(row["id"]),
            "category": genres[0] if genres else GENRES[0],
            "published_at": released,
            "is_active": True,
            "title": row["title"],
            "tags": genres,
            "metadata": metadata,
        }
    return films


def _release_date(text: str, path: Path, number: int) -> datetime | None:
    """``01-Jan-1995``; not by strptime, which knows months by locale."""
    if not text:
        return None
    try:
        day, month, year = text.split("-")
        return datetime(int(year), MONTHS.index(month) + 1, int(day), tzinfo=UTC)
    except ValueError as error:
        raise ImportFailed(
            f"{path}, row {number}, column 'released': {text!r} is no date such as "
            "01-Jan-1995; fetch the dataset again."
        ) from error


def _people(path: Path) -> dict[int, Record]:
    whole, text = pa.int64(), pa.string()
    types = {"id": whole, "age": whole, "sex": text, "occupation": text, "zip": text}
    return {
        row["id"]: {
            "user_id": str(row["id"]),
            "segment": row["occupation"],
            "metadata": {
                "age_band": _age_band(row["age"]),
                "sex": row["sex"],
                "zip": row["zip"],
            },
        }
        for row in _table(path, "|", types).to_pylist()
    }


def _age_band(age: int) -> str:
    return next((band for below, band in AGE_BANDS if age < below), OLDEST_BAND)


def _table(
    path: Path, delimiter: str, types: Mapping[str, pa.DataType], encoding: str = "utf8"
) -> pa.Table:
    """A file of known columns without a header."""
    _require(path)
    try:
        return pacsv.read_csv(
            path,
            # One thread, so that an error names the row.
            read_options=pacsv.ReadOptions(
                column_names=list(types), use_threads=False, encoding=encoding
            ),
            parse_options=pacsv.ParseOptions(delimiter=delimiter, quote_char=False),
            convert_options=pacsv.ConvertOptions(column_types=dict(types)),
        )
    except (OSError, pa.ArrowException) as error:
        raise ImportFailed(
            f"{path} is not as it was published: {error}; its columns (from #0) "
            f"are {', '.join(types)}. Fetch the dataset again."
        ) from error


# --- Globo.com ---------------------------------------------------------------


def globo(folder: Path, cut: Cut) -> list[Part]:
    """Clicks on the articles of a news portal, which the file has in order.

    It tells nothing of an article but its id: the category is ``news``, and it
    is published at its first click. Codes for devices, countries and so on
    stay codes.
    """
    columns = EventColumns(
        user="user_id",
        item="click_article_id",
        time="click_timestamp",
        unit=1_000,
        about_user=("click_country", "click_deviceGroup", "click_referrer_type"),
    )
    path = folder / "clicks.parquet"
    _require(path)
    clicks = ParquetRows(path)
    sources: dict[str, Column | Constant] = {
        "user_id": Column("user_id"),
        "item_id": Column("click_article_id"),
        "event_type": Constant("click"),
        "occurred_at": Column("click_timestamp"),
        "context.session_id": Column("session_id"),
        "context.device": Column("click_deviceGroup"),
        "context.environment": Column("click_environment"),
        "context.os": Column("click_os"),
        "context.country": Column("click_country"),
        "context.region": Column("click_region"),
        "context.referrer_type": Column("click_referrer_type"),
    }
    events = _events("globo", clicks, cut, sources, "ms")
    sights = first_sights(clicks, columns, cut)

    def users() -> Iterator[Record]:
        for user, first in sights.users.items():
            country, device, referrer = map(str, sights.about[user])
            yield {
                "user_id": str(user),
                "created_at": first,
                "country": country,
                "device": device,
                "referral_source": referrer,
            }

    return [
        _bare_items(clicks.name, sights, "news"),
        _catalogue(USERS, clicks.name, len(sights.users), users),
        events,
    ]


# --- Retailrocket ------------------------------------------------------------


def retailrocket(folder: Path, cut: Cut) -> list[Part]:
    """A shop's views, carts (``save``) and purchases.

    It tells nothing of a product but its id: the category is ``product``, and
    it is published at its first event.
    """
    columns = EventColumns(user="user", item="item", time="ts", unit=1_000_000)
    path = folder / "events.parquet"
    _require(path)
    file = ParquetRows(path)
    sources: dict[str, Column | Constant] = {
        "user_id": Column("user"),
        "item_id": Column("item"),
        "event_type": Column("event"),
        "occurred_at": Column("ts"),
    }
    field_map = checked_map(sources, TARGETS[EVENTS])
    field_map.check_columns(file.name, file.columns)
    (chunk,) = file.chunks(field_map.columns(), max(file.total or 0, 1))
    types = [RETAILROCKET_TYPES.get(name, name) for name in chunk.columns["event"]]
    table = pa.table({**chunk.columns, "event": types})
    events = _in_order(table, file.name, "ts")
    sights = first_sights(events, columns, cut)

    def users() -> Iterator[Record]:
        for user, first in sights.users.items():
            yield {"user_id": str(user), "created_at": first}

    return [
        _bare_items(file.name, sights, "product"),
        _catalogue(USERS, file.name, len(sights.users), users),
        _events("retailrocket", events, cut, sources, "s"),
    ]


def _bare_items(name: str, sights: FirstSights, category: str) -> Part:
    """Items of which no more is known than when they were first seen."""

    def items() -> Iterator[Record]:
        for item, first in sights.items.items():
            yield {
                "item_id": str(item),
                "category": category,
                "published_at": first,
                "is_active": True,
            }

    return _catalogue(ITEMS, name, len(sights.items), items)


def _in_order(table: pa.Table, name: str, time: str) -> MemoryRows:
    """``table`` in order of ``time``, rows of one time in the order they had."""
    numbered = table.append_column("_row", pa.array(range(1, table.num_rows + 1)))
    ordered = numbered.sort_by([(time, "ascending"), ("_row", "ascending")])
    values = {
        column: plain_values(ordered[column].combine_chunks())
        for column in ordered.column_names
    }
    return MemoryRows(name, values.pop("_row"), values)


def _require(path: Path) -> None:
    if not path.is_file():
        raise ImportFailed(
            f"There is no {path}; fetch the dataset and set FEEDLOOP_DATA to the "
            f"folder that holds {path.parent.name}/{path.name}."
        )


DATASETS: Mapping[str, Callable[[Path, Cut], list[Part]]] = {
    "movielens-100k": movielens_100k,
    "globo": globo,
    "retailrocket": retailrocket,
}
