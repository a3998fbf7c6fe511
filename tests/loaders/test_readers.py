"""Several processes that read for one loader do as the loader alone does."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyiceberg.catalog import Catalog

from feedloop.clock import FixedClock
from feedloop.contracts.log import EventLog, Message
from feedloop.errors import OffsetsLost, ReaderLost
from feedloop.settings import Settings, from_environment
from loaders.iceberg import ensure_tables, open_catalog
from loaders.loader import Loader
from loaders.log import create_topics, open_log
from loaders.readers import Readers, shared_out
from loaders.reading import Offsets, Part, PartReader, Reading
from tests.loaders.sending import NOW, event, rows, send

PARTITIONS = 5
EVENTS = 300


@pytest.fixture(params=["file", "kafka"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    bootstrap = ""
    if request.param == "kafka":
        bootstrap = request.getfixturevalue("kafka").bootstrap
    return from_environment(
        {},
        home=str(tmp_path),
        namespace=f"t{uuid.uuid4().hex}",
        log=request.param,
        log_partitions=PARTITIONS,
        load_readers=3,
        load_readers_from=1,
        **({"kafka_bootstrap": bootstrap} if bootstrap else {}),
    )


@pytest.fixture
def log(settings: Settings, clock: FixedClock) -> Iterator[EventLog]:
    """Events of many people, some that are none, and some ids twice."""
    with closing(open_log(settings, clock)) as log:
        create_topics(log, settings)
        for user in range(EVENTS):
            send(log, settings, event(user % 250, user_id=f"u{user}"))
            if user % 50 == 0:
                log.append(settings.topic("events"), [Message(f"u{user}", b"{", NOW)])
        yield log


@pytest.fixture
def readers(settings: Settings, log: EventLog) -> Iterator[Readers]:
    with closing(Readers(settings, log, "events")) as readers:
        yield readers


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def stored(settings: Settings) -> set[tuple[str, int, int]]:
    """What is in the table, and of which record it was made."""
    return {
        (row["event_id"], row["log_partition"], row["log_offset"])
        for row in rows(settings, "events")
    }


def read_all(reading: Reading, most: int) -> tuple[pa.Table, pa.Table, Offsets]:
    """All there is, ``most`` records at a time, by place in the log."""
    offsets: Offsets = {}
    parts: list[Part] = []
    while True:
        batch = list(reading.parts(offsets, 1, most))
        parts += batch
        offsets = batch[-1].offsets if batch else offsets
        if not any(part.rows.num_rows or part.dead.num_rows for part in batch):
            break
    place = [("log_partition", "ascending"), ("log_offset", "ascending")]
    return (
        pa.concat_tables([part.rows for part in parts]).sort_by(place),
        pa.concat_tables([part.dead for part in parts]).sort_by(place),
        offsets,
    )


@pytest.mark.parametrize("most", [70, 10_000])
def test_they_read_what_one_reads(
    readers: Readers, settings: Settings, log: EventLog, most: int
) -> None:
    alone = read_all(PartReader(settings, log, "events"), most)
    together = read_all(readers, most)
    assert len(readers.pids) == 3
    assert together == alone
    assert (alone[0].num_rows, alone[1].num_rows) == (EVENTS, 6)


def test_one_loader_commits_what_they_read(
    readers: Readers,
    settings: Settings,
    log: EventLog,
    catalog: Catalog,
    tmp_path: Path,
) -> None:
    loader = Loader(settings, catalog, log, "events", readers)
    reports = list(loader.catch_up())
    assert sum(report.duplicates for report in reports) == EVENTS - 250
    apart = msgspec.structs.replace(settings, home=str(tmp_path / "alone"))
    other = open_catalog(apart)
    ensure_tables(other, apart)
    list(Loader(apart, other, log, "events").catch_up())
    assert stored(settings) == stored(apart)
    assert len(stored(settings)) == 250
    pids = readers.pids
    send(log, settings, event(1_000))
    assert sum(report.rows for report in loader.catch_up()) == 1
    assert readers.pids == pids  # the same processes read what came later


def test_a_reader_that_was_killed_costs_a_try(
    readers: Readers, settings: Settings, log: EventLog, catalog: Catalog
) -> None:
    loader = Loader(settings, catalog, log, "events", readers)
    list(loader.catch_up())
    send(log, settings, *(event(n, user_id=f"u{n}") for n in range(1_000, 1_050)))
    os.kill(readers.pids[1], signal.SIGKILL)
    with pytest.raises(ReaderLost, match="load again"):
        loader.load_once()
    assert len(rows(settings, "events")) == 250
    assert sum(report.rows for report in loader.catch_up()) == 50


def test_what_stops_a_reader_stops_the_loader(readers: Readers) -> None:
    with pytest.raises(OffsetsLost):
        list(readers.parts({0: 10**9}, 1, 100))


def test_nobody_reads_on_when_it_is_closed(readers: Readers) -> None:
    assert next(readers.parts({}, 1, 100)).rows.num_rows
    pids = readers.pids
    assert pids and all(map(alive, pids))
    readers.close()
    assert not any(map(alive, pids))


def test_it_reads_by_itself_what_is_little(settings: Settings, log: EventLog) -> None:
    usual = msgspec.structs.replace(settings, load_readers_from=1_000)
    with closing(Readers(usual, log, "events")) as readers:
        found, _, _ = read_all(readers, 10_000)
        assert not readers.pids
    assert found.num_rows == EVENTS


@given(
    st.dictionaries(st.integers(0, 30), st.integers(0, 10**6), max_size=20),
    st.integers(1, 8),
)
def test_partitions_are_shared_out(waiting: dict[int, int], readers: int) -> None:
    shares = shared_out(waiting, readers)
    busy = [p for p in waiting if waiting[p]]
    assert len(shares) == min(readers, len(busy))
    assert all(any(waiting[p] for p in share) for share in shares)
    if shares:
        assert sorted(p for share in shares for p in share) == sorted(waiting)
        sizes = [sum(waiting[p] for p in share) for share in shares]
        assert max(sizes) - min(sizes) <= max(waiting.values())
