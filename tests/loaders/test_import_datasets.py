"""The public datasets, each a little of it, and its form with made-up rows."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedloop.clock import FixedClock
from feedloop.errors import ImportFailed
from feedloop.settings import Settings, from_environment
from loaders.datasets import DATASETS
from loaders.importing import import_dataset
from tests.loaders.left_behind import in_table, nothing_was_sent

LIMIT = 300
T0 = datetime(2026, 1, 5, 12, tzinfo=UTC)
S0 = int(T0.timestamp())


@pytest.fixture(scope="module")
def data_dir() -> Path:
    """Where the real datasets are, which can't be part of the repository."""
    environ = {k: v for k, v in os.environ.items() if k == "FEEDLOOP_DATA"}
    return from_environment(environ).data_dir


def with_data(tmp_path: Path, data: Path) -> Settings:
    return from_environment({}, home=str(tmp_path), namespace="t1", data=str(data))


@pytest.mark.parametrize("name", DATASETS)
def test_the_beginning_of_a_real_dataset(
    tmp_path: Path, data_dir: Path, clock: FixedClock, name: str
) -> None:
    if not (data_dir / name).is_dir():
        pytest.skip(f"{data_dir / name} is not there: FEEDLOOP_DATA names the folder")
    settings = with_data(tmp_path, data_dir)
    report = import_dataset(settings, clock, name, limit=LIMIT)
    assert report.stored == report.sent
    assert report.sent["events"] == LIMIT
    assert (report.dead_letters, report.duplicates) == (0, 0)

    events = in_table(settings, "events")
    first_seen: dict[tuple[str, str], datetime] = {}
    for event in sorted(events, key=lambda row: row["occurred_at"]):
        for kind in ("item_id", "user_id"):
            first_seen.setdefault((kind, event[kind]), event["occurred_at"])
    assert (report.first, report.last) == (
        min(first_seen.values()),
        max(event["occurred_at"] for event in events),
    )
    items = {row["item_id"]: row for row in in_table(settings, "items")}
    users = {row["user_id"]: row for row in in_table(settings, "users")}
    assert {("item_id", i) for i in items} | {("user_id", u) for u in users} == set(
        first_seen
    )
    for item_id, item in items.items():
        assert item["published_at"] <= first_seen["item_id", item_id]
        assert item["is_active"] and item["category"]
    for user_id, user in users.items():
        assert user["created_at"] == first_seen["user_id", user_id]


def test_importing_a_dataset_twice_stores_its_events_once(
    tmp_path: Path, data_dir: Path, clock: FixedClock
) -> None:
    if not (data_dir / "globo").is_dir():
        pytest.skip(f"{data_dir} has no globo: FEEDLOOP_DATA names the folder")
    settings = with_data(tmp_path, data_dir)
    import_dataset(settings, clock, "globo", limit=LIMIT)
    again = import_dataset(settings, clock, "globo", limit=LIMIT + 50)
    assert again.stored["events"] == 50
    assert again.duplicates == LIMIT


# --- MovieLens ---------------------------------------------------------------


def film(number: int, title: str, released: str, *genres: int) -> str:
    flags = "|".join("1" if n in genres else "0" for n in range(19))
    return f"{number}|{title}|{released}||http://films/{number}|{flags}"


@pytest.fixture
def movielens(tmp_path: Path) -> Settings:
    folder = tmp_path / "data" / "movielens-100k"
    folder.mkdir(parents=True)
    (folder / "u.data").write_text(
        f"2\t3\t4\t{S0 + 20}\n1\t1\t5\t{S0}\n1\t2\t1\t{S0 + 10}\n2\t1\t2\t{S0 + 30}\n"
    )
    (folder / "u.item").write_bytes(
        "\n".join(
            [
                film(1, "Misérables, Les (1934)", "01-Jan-1934", 8),
                film(2, "Tomorrow", "07-Feb-2026", 16, 1, 5),
                film(3, "unknown", "", 0),
                film(4, "Never rated", "01-Jan-1995", 5),
            ]
        ).encode("latin-1")
    )
    (folder / "u.user").write_text("1|17|F|student|00001\n2|55|M|none|V0R2M\n")
    return with_data(tmp_path, tmp_path / "data")


def test_movielens(movielens: Settings, clock: FixedClock) -> None:
    report = import_dataset(movielens, clock, "movielens-100k")
    assert report.stored == {"events": 4, "items": 3, "users": 2}
    items = {row["item_id"]: row for row in in_table(movielens, "items")}
    told = ("title", "category", "tags", "published_at")
    assert {i: tuple(row[name] for name in told) for i, row in items.items()} == {
        "1": (
            "Misérables, Les (1934)",
            "Drama",
            ["Drama"],
            datetime(1934, 1, 1, tzinfo=UTC),
        ),
        # released after it was first rated, and not at all
        "2": (
            "Tomorrow",
            "Action",
            ["Action", "Comedy", "Thriller"],
            T0 + timedelta(seconds=10),
        ),
        "3": ("unknown", "unknown", ["unknown"], T0 + timedelta(seconds=20)),
    }
    assert items["2"]["metadata"] == (
        '{"imdb_url":"http://films/2","released":"2026-02-07"}'
    )
    users = {row["user_id"]: row for row in in_table(movielens, "users")}
    assert {
        u: (r["segment"], r["created_at"], r["metadata"]) for u, r in users.items()
    } == {
        "1": ("student", T0, '{"age_band":"under 18","sex":"F","zip":"00001"}'),
        "2": (
            "none",
            T0 + timedelta(seconds=20),
            '{"age_band":"55+","sex":"M","zip":"V0R2M"}',
        ),
    }
    events = in_table(movielens, "events")
    assert {(e["user_id"], e["item_id"], e["event_value"]) for e in events} == {
        ("2", "3", 4.0),
        ("1", "1", 5.0),
        ("1", "2", 1.0),
        ("2", "1", 2.0),
    }
    assert {e["event_type"] for e in events} == {"rating"}


@pytest.mark.parametrize(
    ("cut", "events", "items", "users"),
    [
        ({"until": T0 + timedelta(seconds=20)}, 2, {"1", "2"}, {"1"}),
        ({"since": T0 + timedelta(seconds=10)}, 3, {"1", "2", "3"}, {"1", "2"}),
        # what came before the cut is known in it
        (
            {"since": T0 + timedelta(seconds=10), "until": T0 + timedelta(seconds=20)},
            1,
            {"1", "2"},
            {"1"},
        ),
        ({"since": T0 + timedelta(seconds=5), "limit": 1}, 1, {"1", "2"}, {"1"}),
        ({"until": T0}, 0, set(), set()),
        # between two seconds
        ({"until": T0 + timedelta(seconds=19.5)}, 2, {"1", "2"}, {"1"}),
        ({"since": T0 + timedelta(seconds=19.5)}, 2, {"1", "2", "3"}, {"1", "2"}),
    ],
)
def test_a_cut_knows_nothing_of_what_comes_after_it(
    movielens: Settings,
    clock: FixedClock,
    cut: dict[str, Any],
    events: int,
    items: set[str],
    users: set[str],
) -> None:
    report = import_dataset(movielens, clock, "movielens-100k", **cut)
    assert report.stored["events"] == events
    assert {row["item_id"] for row in in_table(movielens, "items")} == items
    assert {row["user_id"] for row in in_table(movielens, "users")} == users


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("u.data", "1\t1\tfive\t1\n", r"u\.data is not .*five"),
        ("u.data", "1\t1\t5\n", r"u\.data is not .*Expected 4 columns, got 3"),
        ("u.data", "", r"u\.data is not .*Empty"),
        ("u.data", f"1\t99\t5\t{S0}\n", r"u\.item has no row for 99"),
        ("u.data", f"7\t1\t5\t{S0}\n", r"u\.user has no row for 7"),
        (
            "u.item",
            film(1, "x", "1995-01-01", 1),
            r"u\.item, row 1, column 'released': '1995-01-01' is no date",
        ),
    ],
)
def test_a_damaged_download(
    movielens: Settings, clock: FixedClock, file: str, content: str, sentence: str
) -> None:
    (movielens.data_dir / "movielens-100k" / file).write_text(content)
    with pytest.raises(ImportFailed, match=sentence):
        import_dataset(movielens, clock, "movielens-100k")
    assert nothing_was_sent(movielens, clock)


# --- Globo and Retailrocket --------------------------------------------------


def test_globo(tmp_path: Path, clock: FixedClock) -> None:
    folder = tmp_path / "data" / "globo"
    folder.mkdir(parents=True)
    columns: dict[str, list[int]] = {
        "user_id": [5, 6, 5],
        "session_id": [10, 11, 12],
        "session_start": [0, 0, 0],
        "session_size": [2, 1, 1],
        "click_article_id": [100, 100, 200],
        "click_timestamp": [S0 * 1000, S0 * 1000 + 1, S0 * 1000 + 2],
        "click_environment": [4, 4, 4],
        "click_deviceGroup": [1, 3, 4],
        "click_os": [17, 17, 17],
        "click_country": [1, 11, 1],
        "click_region": [21, 13, 21],
        "click_referrer_type": [2, 1, 5],
    }
    pq.write_table(pa.table(columns), folder / "clicks.parquet")
    settings = with_data(tmp_path, tmp_path / "data")
    import_dataset(settings, clock, "globo")
    events = sorted(in_table(settings, "events"), key=lambda row: row["occurred_at"])
    assert [
        (e["user_id"], e["item_id"], e["event_type"], e["session_id"], e["device"])
        for e in events
    ] == [
        ("5", "100", "click", "10", "1"),
        ("6", "100", "click", "11", "3"),
        ("5", "200", "click", "12", "4"),
    ]
    assert events[0]["context"] == (
        '{"session_id":"10","device":"1","environment":4,"os":17,"country":1,'
        '"region":21,"referrer_type":2}'
    )
    items = {row["item_id"]: row for row in in_table(settings, "items")}
    assert {i: (r["category"], r["published_at"]) for i, r in items.items()} == {
        "100": ("news", T0),
        "200": ("news", T0 + timedelta(milliseconds=2)),
    }
    users = {row["user_id"]: row for row in in_table(settings, "users")}
    told = ("created_at", "country", "device", "referral_source")
    assert {u: tuple(row[name] for name in told) for u, row in users.items()} == {
        "5": (T0, "1", "1", "2"),  # as at the first click
        "6": (T0 + timedelta(milliseconds=1), "11", "3", "1"),
    }


def test_retailrocket(tmp_path: Path, clock: FixedClock) -> None:
    folder = tmp_path / "data" / "retailrocket"
    folder.mkdir(parents=True)
    table = pa.table(
        {
            "user": [1, 1, 2, 1],
            "item": [7, 7, 7, 7],
            "event": ["buy", "cart", "view", "return"],
            "ts": [S0 + 20, S0 + 10, S0, S0 + 30],
        }
    )
    pq.write_table(table, folder / "events.parquet")
    settings = with_data(tmp_path, tmp_path / "data")
    report = import_dataset(settings, clock, "retailrocket")
    assert report.stored == {"events": 3, "items": 1, "users": 2}
    assert report.dead_letters == 1  # a type that the file did not use to have
    events = sorted(in_table(settings, "events"), key=lambda row: row["occurred_at"])
    assert [e["event_type"] for e in events] == ["view", "save", "purchase"]
    (item,) = in_table(settings, "items")
    assert (item["category"], item["published_at"]) == ("product", T0)

    strict = "row 4 .*column 'event'"
    with pytest.raises(ImportFailed, match=strict):
        import_dataset(settings, clock, "retailrocket", strict=True)


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_that_is_not_there(
    settings: Settings, tmp_path: Path, clock: FixedClock, name: str
) -> None:
    nowhere = with_data(tmp_path, tmp_path / "nowhere")
    with pytest.raises(ImportFailed, match=f"There is no .*{name}.*FEEDLOOP_DATA"):
        import_dataset(nowhere, clock, name)


def test_a_globo_file_with_other_columns(tmp_path: Path, clock: FixedClock) -> None:
    folder = tmp_path / "data" / "globo"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": [1]}), folder / "clicks.parquet")
    settings = with_data(tmp_path, tmp_path / "data")
    with pytest.raises(ImportFailed, match="no column 'click_article_id'"):
        import_dataset(settings, clock, "globo")


def test_an_unknown_name(settings: Settings, clock: FixedClock) -> None:
    with pytest.raises(ImportFailed, match="no dataset 'netflix'; there are movie"):
        import_dataset(settings, clock, "netflix")
