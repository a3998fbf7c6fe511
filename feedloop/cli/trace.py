"""``feedloop trace``: follow one event through the loop.

Reads the raw tables and the builds' folders only, so that it works beside a
running build.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import duckdb
import msgspec

from feedloop.contracts.builds import (
    ITEM_FEATURES_FILE,
    LISTS,
    LISTS_FILE,
    USER_FEATURES_FILE,
)
from feedloop.contracts.lists import REASONS, BuildId
from feedloop.contracts.seeds import read_event_types, read_features
from feedloop.errors import ContractError, FeedloopError
from feedloop.settings import Settings, from_environment
from loaders.duckdb_plugin import raw_views

Row = dict[str, Any]


def trace(settings: Settings, event_id: str) -> Row:
    """What became of an event: its place in the log, its row, the features
    that changed with it, the list it answers and what else that list led to,
    and the first list made after it.

    Raises ``FeedloopError`` where there is no such event.
    """
    with raw_views(settings) as connection:
        found = _rows(connection, "from events where event_id = ?", [event_id])
        if not found:
            return _not_stored(connection, settings, event_id)
        event = found[0]
        return {
            "log": {
                "topic": settings.topic("events"),
                "partition": event.pop("log_partition"),
                "offset": event.pop("log_offset"),
                "load_seq": event.pop("load_seq"),
            },
            "event": {k: v for k, v in event.items() if v is not None},
            "features": _features(connection, settings, event),
            "answers": _answered_list(connection, event),
            "outcomes": _outcomes(connection, settings, event),
            "next_list": _next_list(connection, settings, event),
        }


def _not_stored(
    connection: duckdb.DuckDBPyConnection, settings: Settings, event_id: str
) -> Row:
    dead = _rows(
        connection,
        "select stream, log_partition, log_offset, field, reason from dead_letters "
        "where contains(decode(value), ?) limit 1",
        [event_id],
    )
    if dead:
        return {"dead_letter": dead[0]}
    raise FeedloopError(
        f"{settings.raw_schema}.events holds no event {event_id!r}; if it was sent "
        "just now, `feedloop load` brings it from the log."
    )


def _rows(
    connection: duckdb.DuckDBPyConnection, query: str, values: list[Any]
) -> list[Row]:
    rows: list[Row] = connection.execute(query, values).to_arrow_table().to_pylist()
    return rows


def _builds_around(settings: Settings, event: Row) -> tuple[Path | None, Path | None]:
    """The last build before the event and the first that could know it."""
    before: list[tuple[Any, Path]] = []
    after: list[tuple[Any, Path]] = []
    for path in settings.builds_dir.glob(f"*@*/{LISTS}/{LISTS_FILE}"):
        folder = path.parent
        try:
            as_of = BuildId.parse(folder.parent.name).as_of
        except ContractError:
            continue  # a folder of someone else's
        known = as_of >= max(event["occurred_at"], event["ingested_at"])
        (after if known else before).append((as_of, folder))
    return (
        max(before)[1] if before else None,
        min(after)[1] if after else None,
    )


def _features(
    connection: duckdb.DuckDBPyConnection, settings: Settings, event: Row
) -> list[Row]:
    before, after = _builds_around(settings, event)
    if after is None:
        return []
    changed = []
    for entity, file in (("user", USER_FEATURES_FILE), ("item", ITEM_FEATURES_FILE)):
        names = [
            feature.feature_name
            for feature in read_features(settings.seeds_dir).values()
            if feature.entity_type == entity
        ]
        query = f"from read_parquet(?) where {entity}_id = ?"
        key = event[f"{entity}_id"]
        new = _rows(connection, query, [str(after / file), key])
        old = (
            _rows(connection, query, [str(before / file), key])
            if before is not None
            else []
        )
        for name in names:
            values = [rows[0].get(name) if rows else None for rows in (old, new)]
            if values[0] != values[1]:
                changed.append(
                    {
                        "feature": name,
                        "before": values[0],
                        "after": values[1],
                        "build": after.parent.name,
                    }
                )
    return changed


def _answered_list(connection: duckdb.DuckDBPyConnection, event: Row) -> Row | None:
    if event["rec_id"] is None:
        return None
    rows = _rows(
        connection,
        """select rec_id, user_id, surface, build_id, generated_at,
            list_position(item_ids, ?) as position,
            propensities[list_position(item_ids, ?)] as propensity,
            sources[list_position(item_ids, ?)] as source,
            scores[list_position(item_ids, ?)] as score,
            reasons[? * (position - 1) + 1 : ? * position] as reasons
        from lists where rec_id = ?""",
        [*[event["item_id"]] * 4, REASONS, REASONS, event["rec_id"]],
    )
    return rows[0] if rows else None


def _outcomes(
    connection: duckdb.DuckDBPyConnection, settings: Settings, event: Row
) -> list[Row]:
    if event["rec_id"] is None:
        return []
    labels = [
        t.event_type
        for t in read_event_types(settings.seeds_dir).values()
        if t.is_label
    ]
    return _rows(
        connection,
        "select event_id, event_type, occurred_at from events "
        "where rec_id = ? and item_id = ? and user_id = ? "
        "and list_contains(?, event_type) order by occurred_at",
        [event["rec_id"], event["item_id"], event["user_id"], labels],
    )


def _next_list(
    connection: duckdb.DuckDBPyConnection, settings: Settings, event: Row
) -> Row | None:
    _, after = _builds_around(settings, event)
    if after is None:
        return None
    rows = _rows(
        connection,
        "select rec_id, surface, build_id, item_ids[1:10] as first_items "
        "from read_parquet(?) where user_id = ? limit 1",
        [str(after / LISTS_FILE), event["user_id"]],
    )
    return rows[0] if rows else None


@click.command(epilog="Example: feedloop trace 6f1c2b9e-… --json")
@click.argument("event_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(event_id: str, as_json: bool) -> None:
    """Follow one event: offset, row, features it changed, list, outcome."""
    found = trace(from_environment(), event_id)
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for title, content in found.items():
        click.secho(title, bold=True)
        for row in content if isinstance(content, list) else [content or {}]:
            if not row:
                click.echo("  none")
            for name, value in row.items():
                click.echo(f"  {name:<16} {_short(value)}")
            if isinstance(content, list) and len(content) > 1:
                click.echo()
        if content == []:
            click.echo("  none")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        shown = ", ".join(_short(one) for one in value[:10])
        return f"[{shown}{', …' if len(value) > 10 else ''}]"
    return str(value)
