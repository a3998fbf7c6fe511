"""Events of an app, made fast: the same on every run, skewed as people are.

A session is a run of ``SESSION`` events of one person within the hour. Few people
and few items have most of the events; a person keeps to a few categories. An
event's type, item and second follow from hashes of its number, so that a day can
be made by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb

from feedloop.contracts.tables import EVENTS_SCHEMA, ITEMS_SCHEMA, USERS_SCHEMA

START = datetime(2026, 1, 1, tzinfo=UTC)
SESSION = 10
CATEGORIES = 30
TASTES = 4
"""Categories that a person mostly keeps to."""
PEOPLE_SKEW, ITEM_SKEW = 2.0, 2.5
"""A uniform draw to this power gives the place among people, or items."""

# A share of a thousand draws, up to and without the number.
TYPES = (
    (700, "impression"),
    (720, "hover"),
    (780, "scroll_past"),
    (880, "view"),
    (970, "click"),
    (980, "like"),
    (985, "save"),
    (990, "purchase"),
    (1000, "skip"),
)


@dataclass(frozen=True)
class World:
    """``events_a_day``: a multiple of ``SESSION``."""

    people: int
    items: int
    events_a_day: int


def make_catalogue(connection: duckdb.DuckDBPyConnection, world: World) -> None:
    """Tables ``events`` (empty), ``items`` and ``users`` as the loader leaves them,
    in the current schema."""
    schemas = {"events": EVENTS_SCHEMA, "items": ITEMS_SCHEMA, "users": USERS_SCHEMA}
    for name, schema in schemas.items():
        empty = schema.empty_table()
        connection.execute(f"create table {name} as from empty")
        del empty
    loaded = (
        f"timestamptz '{START}' as ingested_at, 0 as log_partition, "
        "i as log_offset, 0 as load_seq"
    )
    connection.execute(
        "insert into items by name "
        f"select {_item('i')} as item_id, "
        f"{_category(f'i % {CATEGORIES}')} as category, "
        f"timestamptz '{START}' as published_at, true as is_active, {loaded} "
        f"from range({world.items}) as numbers(i)"
    )
    connection.execute(
        "insert into users by name "
        f"select {_person('i')} as user_id, timestamptz '{START}' as created_at, "
        f"{loaded} from range({world.people}) as numbers(i)"
    )


def events_of_day(world: World, day: int, load_seq: int, share: float = 1.0) -> str:
    """A query for the first ``share`` of the events of day ``day`` after ``START``,
    with the columns of ``raw.events``, loaded when the day was over."""
    date = START + timedelta(days=day)
    first = day * world.events_a_day
    count = int(world.events_a_day * share)
    tastes = f"{_hashed('person', 6)} + 7 * ({_hashed('i', 7)} % {TASTES})"
    return f"""
    with numbered as (
        select
            i,
            i // {SESSION} as session,
            cast(
                floor(
                    {world.people} * power({_uniform(f"i // {SESSION}", 2)},
                    {PEOPLE_SKEW})
                ) as bigint
            ) as person,
            {_hashed("i", 3)} % 1000 as kind
        from range({first}, {first + count}) as numbers(i)
    ),
    placed as (
        select
            *,
            -- seven in ten of a person's items are of the categories they like
            cast(
                floor({world.items} * power({_uniform("i", 4)}, {ITEM_SKEW})) as bigint
            ) as any_item,
            {_hashed("i", 5)} % 10 < 7 as by_taste,
            ({tastes}) % {CATEGORIES} as taste
        from numbered
    ),
    seen as (
        select
            *,
            case
                when by_taste
                then any_item - any_item % {CATEGORIES} + taste
                else any_item
            end % {world.items} as item
        from placed
    )
    select
        md5(cast(i as varchar)) as event_id,
        {_person("person")} as user_id,
        {_item("item")} as item_id,
        {_type("kind")} as event_type,
        timestamptz '{date}' + to_seconds(
            {_hashed("session", 8)} % 82800 + {_hashed("i", 9)} % 3600
        ) as occurred_at,
        case when kind < 985 then 'r' || session end as rec_id,
        's' || session as session_id,
        'homepage' as surface,
        cast(case when kind < 985 then i % {SESSION} + 1 end as integer)
            as page_position,
        case when kind between 780 and 969 then {_hashed("i", 10)} % 60000 end
            as dwell_time_ms,
        timestamptz '{date + timedelta(days=1)}' as ingested_at,
        0 as log_partition,
        i as log_offset,
        {load_seq} as load_seq
    from seen
    order by occurred_at, i
    """


def _hashed(number: str, salt: int) -> str:
    return f"cast(hash({number}, {salt}) >> 1 as bigint)"


def _uniform(number: str, salt: int) -> str:
    return f"({_hashed(number, salt)} % 1000000007 / 1000000007.0)"


def _person(number: str) -> str:
    return f"printf('u%06d', {number})"


def _item(number: str) -> str:
    return f"printf('i%06d', {number})"


def _category(number: str) -> str:
    return f"printf('c%02d', {number})"


def _type(kind: str) -> str:
    cases = " ".join(f"when {kind} < {up_to} then '{name}'" for up_to, name in TYPES)
    return f"case {cases} end"
