"""Public datasets as a training part and what people did next.

Columns as ``benchmarks.quality`` reads them from files: user_id, item_id,
occurred_at, event_type; of items what the dataset says of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

FILMS = "movielens-100k/u.item"
GENRES_FROM, GENRES = 5, 19


@dataclass(frozen=True)
class Split:
    """``test``: user_id, item_id. ``items``: None where nothing is known."""

    train: pa.Table
    test: pa.Table
    items: pa.Table | None = None


def movielens_100k(data: Path) -> Split:
    """Each person's last fifth by (time, item): ``floor(0.8 n)`` are kept."""
    with duckdb.connect() as connection:
        connection.execute(
            "create table ratings as select column0 as user_id, column1 as item_id, "
            "'rating' as event_type, to_timestamp(column3) as occurred_at, "
            "row_number() over (partition by column0 order by column3, column1) "
            "as place, count(*) over (partition by column0) as total "
            "from read_csv(?, delim = '\t', header = false)",
            [str(data / "movielens-100k/u.data")],
        )
        part = "select user_id, item_id, event_type, occurred_at from ratings where "
        train, test = (
            connection.sql(
                f"{part} place {sign} floor(0.8 * total) order by occurred_at, item_id"
            ).to_arrow_table()
            for sign in ("<=", ">")
        )
    return Split(train, test, _films(data / FILMS))


def _films(path: Path) -> pa.Table:
    rows = [
        line.split("|")
        for line in path.read_text(encoding="latin-1").splitlines()
        if line
    ]
    genres = [
        [str(at) for at in range(GENRES) if row[GENRES_FROM + at] == "1"]
        for row in rows
    ]
    return pa.table(
        {
            "item_id": [row[0] for row in rows],
            "title": [row[1] for row in rows],
            "category": [theirs[0] if theirs else None for theirs in genres],
            "tags": pa.array(genres, pa.list_(pa.string())),
        }
    )


def retailrocket(data: Path) -> Split:
    """One held-out purchase a person; carts count as saved."""
    folder = data / "retailrocket"
    with duckdb.connect() as connection:
        train = connection.execute(
            'select "user" as user_id, item as item_id, '
            "case event when 'cart' then 'save' when 'buy' then 'purchase' "
            "else event end as event_type, to_timestamp(ts) as occurred_at "
            'from read_parquet(?) order by ts, "user", item, event',
            [str(folder / "events.parquet")],
        ).to_arrow_table()
        test = connection.execute(
            'select "user" as user_id, item as item_id from read_csv(?)',
            [str(folder / "test_buy.csv")],
        ).to_arrow_table()
    return Split(train, test)


def globo(data: Path, day: int) -> Split:
    """Clicks before 15:00 UTC on that day of October 2017, and what people
    with a history clicked for the first time in the three hours after it."""
    with duckdb.connect() as connection:
        connection.execute(
            "create table clicks as select user_id, click_article_id as item_id, "
            "'click' as event_type, epoch_ms(click_timestamp) as occurred_at, "
            "epoch_ms(click_timestamp) < ? as known "
            "from read_parquet(?) where epoch_ms(click_timestamp) < ?",
            [
                f"2017-10-{day} 15:00",
                str(data / "globo/clicks.parquet"),
                f"2017-10-{day} 18:00",
            ],
        )
        train = connection.sql(
            "select user_id, item_id, event_type, occurred_at from clicks "
            "where known order by occurred_at, user_id, item_id"
        ).to_arrow_table()
        test = connection.sql(
            "select distinct user_id, item_id from clicks as later where not known "
            "and user_id in (select user_id from clicks where known) and not exists "
            "(from clicks where known and user_id = later.user_id "
            "and item_id = later.item_id) order by all"
        ).to_arrow_table()
    return Split(train, test)


DATASETS: dict[str, Callable[[Path], Split]] = {
    "movielens-100k": movielens_100k,
    "retailrocket": retailrocket,
    "globo-13": lambda data: globo(data, 13),
    "globo-16": lambda data: globo(data, 16),
}
