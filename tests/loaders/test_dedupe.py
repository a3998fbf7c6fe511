"""The index of a table's ids, and what is found with it."""

from __future__ import annotations

import multiprocessing
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pyiceberg.catalog import Catalog

from feedloop.contracts.log import EventLog
from feedloop.settings import Settings
from loaders import dedupe
from loaders.compaction import CompactionPolicy, compact
from loaders.day_files import DayFiles
from loaders.event_index import EventIndex, Hashes, hashes_of
from loaders.iceberg import open_table
from loaders.loader import Loader
from tests.loaders.sending import NOW, event, event_ids, send


def numbers(*values: int) -> Hashes:
    return np.array(values, np.uint64)


def test_a_hash_a_text_in_order_and_always_the_same() -> None:
    texts = [f"event-{n % 1000}" for n in range(300_000)]
    hashes = hashes_of(pa.chunked_array([texts[:7], texts[7:]]))
    assert (hashes[:1000] == hashes_of(pa.chunked_array([texts[:1000]]))).all()
    assert (hashes == np.tile(hashes[:1000], 300)).all()
    assert len(set(hashes[:1000].tolist())) == 1000


def test_who_may_hold_what(tmp_path: Path) -> None:
    index = EventIndex(tmp_path)
    assert index.files() == set()
    assert index.holders(numbers(1)) == {}
    index.add({"a": numbers(5, 1, 9), "b": numbers(9, 7), "none": numbers()}, [])
    assert index.files() == {"a", "b", "none"}
    found = index.holders(numbers(9, 3, 1, 2**64 - 1, 0, 7))
    assert {file: at.tolist() for file, at in found.items()} == {
        "a": [0, 2],
        "b": [0, 5],
    }


entries = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.lists(st.integers(0, 40) | st.integers(2**64 - 3, 2**64 - 1), max_size=30),
    max_size=3,
)


@examples(deadline=None, max_examples=60)
@given(st.lists(entries, max_size=8), st.integers(1, 50))
def test_whatever_is_added_is_found_by_everybody(
    tmp_path_factory: pytest.TempPathFactory,
    added: list[dict[str, list[int]]],
    merged_at_once: int,
) -> None:
    folder = tmp_path_factory.mktemp("index")
    first, second = EventIndex(folder), EventIndex(folder)
    holders: dict[str, set[int]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loaders.event_index.MERGED_AT_ONCE", merged_at_once)
        for turn, new in enumerate(added):
            index = (first, second)[turn % 2]
            index.add({f: numbers(*values) for f, values in new.items()}, "abcdefgh")
            for file, values in new.items():
                holders.setdefault(file, set()).update(values)
    everything = [*range(41), *range(2**64 - 3, 2**64)]
    for index in (first, second, EventIndex(folder)):
        assert index.files() == holders.keys()
        found = index.holders(numbers(*everything))
        assert {
            file: {everything[at] for at in positions.tolist()}
            for file, positions in found.items()
        } == {file: values for file, values in holders.items() if values}


def test_there_are_few_runs_and_what_is_gone_goes(tmp_path: Path) -> None:
    index = EventIndex(tmp_path)
    for number in range(200):
        some = np.arange(number * 100, number * 100 + 100, dtype=np.uint64)
        index.add({f"file{number}": some}, [f"file{n}" for n in range(50, 200)])
    assert len(list(tmp_path.glob("*/[!.]*"))) <= 6
    assert {f"file{n}" for n in range(50, 200)} <= index.files()
    index.add({"last": numbers(1)}, [])
    assert index.files() == {"last"}
    assert len(list(tmp_path.glob("*/*/hashes"))) == 1


def add_many(folder: Path, first: int) -> None:
    index = EventIndex(folder)
    for number in range(first, first + 20):
        some = np.arange(number * 10, number * 10 + 10, dtype=np.uint64)
        index.add({f"file{number}": some}, [f"file{n}" for n in range(1000)])


def test_processes_add_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    adding = [
        context.Process(target=add_many, args=(tmp_path, first)) for first in (0, 20)
    ]
    for process in adding:
        process.start()
    index = EventIndex(tmp_path)
    while any(process.is_alive() for process in adding):
        for file in index.files():
            number = int(file.removeprefix("file"))
            assert file in index.holders(numbers(number * 10))
    for process in adding:
        process.join()
        assert process.exitcode == 0
    assert index.files() == {f"file{n}" for n in range(40)}
    assert len(index.holders(np.arange(400, dtype=np.uint64))) == 40


def test_a_killed_one_leaves_nothing_behind(tmp_path: Path) -> None:
    index = EventIndex(tmp_path)
    index.add({"a": numbers(1)}, [])
    (folder,) = tmp_path.iterdir()
    (folder / ".half").mkdir()
    (folder / ".half" / "hashes").write_bytes(b"123")
    index.add({"b": numbers(2)}, ["a"])
    assert index.files() == {"a", "b"}
    assert not list(folder.glob(".*"))


# --- with a table ------------------------------------------------------------


def load(settings: Settings, catalog: Catalog, log: EventLog) -> tuple[int, int]:
    report = Loader(settings, catalog, log, "events").load_once()
    return report.rows, report.duplicates


def test_what_was_written_is_never_read_again(
    log: EventLog,
    catalog: Catalog,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loader = Loader(settings, catalog, log, "events")
    days = [NOW - timedelta(days=n) for n in (1, 2, 5)]
    send(log, settings, *(event(n, occurred_at=days[n % 3]) for n in range(30)))
    loader.load_once()
    monkeypatch.delattr(dedupe, "_read")
    send(log, settings, *(event(n, occurred_at=days[n % 3]) for n in range(30, 60)))
    assert loader.load_once().rows == 30
    assert load(settings, catalog, log) == (0, 0)


@pytest.mark.parametrize("lost", ["nothing", "the index"])
def test_repeated_after_a_compaction(
    log: EventLog, catalog: Catalog, settings: Settings, lost: str
) -> None:
    for first in range(0, 40, 10):
        send(log, settings, *map(event, range(first, first + 10)))
        load(settings, catalog, log)
    policy = CompactionPolicy(1 << 20, min_files=2)
    done = compact(
        lambda: open_table(catalog, settings, "events"), ["event_id"], policy
    )
    assert (done.files_before, done.files_after) == (4, 1)
    if lost == "the index":
        shutil.rmtree(settings.dedupe_dir)
    send(log, settings, *map(event, range(45)))
    assert load(settings, catalog, log) == (5, 40)
    send(log, settings, *map(event, range(45)))
    assert load(settings, catalog, log) == (0, 45)
    assert event_ids(settings) == sorted(f"e{n}" for n in range(45))


def test_files_of_days_are_those_that_a_scan_finds(
    log: EventLog, catalog: Catalog, settings: Settings
) -> None:
    def found(*days: int) -> set[str]:
        table = open_table(catalog, settings, "events")
        return set(files.of(table, days))

    def scanned(*days: int) -> set[str]:
        tasks = open_table(catalog, settings, "events").scan().plan_files()
        return {t.file.file_path for t in tasks if t.file.partition[0] in days}

    files = DayFiles()
    today = (NOW - datetime(1970, 1, 1, tzinfo=UTC)).days
    assert found(today) == set()
    for first in range(0, 30, 10):
        when = (NOW - timedelta(days=n % 4) for n in range(first, first + 10))
        send(
            log,
            settings,
            *(event(first + n, occurred_at=t) for n, t in enumerate(when)),
        )
        load(settings, catalog, log)
        for day in range(today - 5, today + 1):
            assert found(day) == scanned(day)
    assert len(found(today, today - 1)) == 6
    compact(
        lambda: open_table(catalog, settings, "events"),
        ["event_id"],
        CompactionPolicy(1 << 20, min_files=2),
    )
    assert len(found(today, today - 1)) == 2
    assert found(today) == scanned(today)


def test_one_id_with_two_bodies_days_apart_is_one_event(
    log: EventLog, catalog: Catalog, settings: Settings
) -> None:
    week = timedelta(days=7)
    send(log, settings, event(1, occurred_at=NOW - week, item_id="first"))
    assert load(settings, catalog, log) == (1, 0)
    send(log, settings, event(1, occurred_at=NOW, item_id="second"), event(2))
    assert load(settings, catalog, log) == (1, 1)


def test_a_stray_event_of_long_ago_reads_only_the_days_around_it(
    log: EventLog, catalog: Catalog, settings: Settings
) -> None:
    years = timedelta(days=2000)
    send(log, settings, event(1, occurred_at=NOW - years / 2), event(2))
    load(settings, catalog, log)
    shutil.rmtree(settings.dedupe_dir)
    send(log, settings, event(2), event(3, occurred_at=NOW - years), event(4))
    assert load(settings, catalog, log) == (2, 1)
    (folder,) = settings.dedupe_dir.glob("*")
    known = EventIndex(folder).files()
    files = {
        task.file.file_path: task.file.record_count
        for task in open_table(catalog, settings, "events").scan().plan_files()
    }
    assert known < files.keys()
    assert sum(files.values()) == 4


def test_ids_whose_hashes_are_equal_are_two_events(
    log: EventLog,
    catalog: Catalog,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def all_equal(texts: pa.ChunkedArray) -> Hashes:
        return np.full(len(texts), 7, np.uint64)

    monkeypatch.setattr(dedupe, "hashes_of", all_equal)
    send(log, settings, *map(event, range(5)), event(3))
    assert load(settings, catalog, log) == (5, 1)
    send(log, settings, *map(event, range(8)))
    assert load(settings, catalog, log) == (3, 5)
    assert event_ids(settings) == sorted(f"e{n}" for n in range(8))
