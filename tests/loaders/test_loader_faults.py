"""Loaders that die or race: every accepted event is stored, and once."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Collection, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pyiceberg.catalog import Catalog

from feedloop.contracts.log import Batch, EventLog, Message
from feedloop.errors import Fenced
from feedloop.settings import Settings
from loaders.iceberg import Fence, FencedAppend, committed
from loaders.iceberg import open_table as open_raw_table
from loaders.loader import Loader
from tests.loaders.dying import Killed
from tests.loaders.killable import load_until_done
from tests.loaders.sending import NOW, TOPIC, counts, event, event_ids, rows, send

FAULTS = ["before the dead letters", "before the rows", "after the rows"]


@pytest.mark.parametrize("fault", range(len(FAULTS)), ids=FAULTS)
def test_killed_between_two_steps(
    fault: int,
    loader: Loader,
    log: EventLog,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send(log, settings, *map(event, range(20)))
    log.append(TOPIC, [Message("k", b"bad", NOW)])
    real = FencedAppend.commit
    calls = iter(range(10))

    def dying(append: FencedAppend, fence: Fence) -> None:
        if next(calls) == fault:
            raise Killed
        real(append, fence)
        if fault == 2 and append._table.name()[-1] == "events":
            raise Killed

    monkeypatch.setattr(FencedAppend, "commit", dying)
    with pytest.raises(Killed):
        loader.load_once()
    monkeypatch.undo()

    # the batch has grown before the next try, and holds another bad one
    send(log, settings, *map(event, range(20, 30)))
    log.append(TOPIC, [Message("k", b"worse", NOW)])
    list(loader.catch_up())
    assert event_ids(settings) == sorted(f"e{n}" for n in range(30))
    letters = sorted(row["value"] for row in rows(settings, "dead_letters"))
    assert letters == [b"bad", b"worse"]


def test_a_shorter_second_try_forgets_no_dead_letter(
    catalog: Catalog,
    loader: Loader,
    log: EventLog,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for _ in range(3):
        send(log, settings, *map(event, range(5)))
        log.append(TOPIC, [Message(key, b"bad", NOW) for key in "abcdef"])
    real = FencedAppend.commit

    def dying(append: FencedAppend, fence: Fence) -> None:
        if append._table.name()[-1] == "events":
            raise Killed
        real(append, fence)

    monkeypatch.setattr(FencedAppend, "commit", dying)
    with pytest.raises(Killed):
        loader.load_once()
    monkeypatch.undo()
    small = msgspec.structs.replace(settings, load_max_events=3)
    list(Loader(small, catalog, log, "events").catch_up())
    letters = [
        (row["log_partition"], row["log_offset"])
        for row in rows(settings, "dead_letters")
    ]
    assert len(letters) == len(set(letters)) == 18
    assert event_ids(settings) == [f"e{n}" for n in range(5)]


class Meanwhile:
    """A log that lets something happen once a batch was read from it."""

    def __init__(self, log: EventLog, happens: Callable[[], object]) -> None:
        self._log = log
        self._happens = iter([happens])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def read(
        self,
        topic: str,
        offsets: Mapping[int, int],
        limit: int,
        only: Collection[int] | None = None,
    ) -> Batch:
        batch = self._log.read(topic, offsets, limit, only)
        for happens in self._happens:
            happens()
        return batch


@pytest.mark.parametrize("bad", [[], [b"bad"]], ids=["rows", "rows and dead letters"])
def test_the_slower_of_two_loaders_is_fenced(
    bad: list[bytes],
    catalog: Catalog,
    loader: Loader,
    log: EventLog,
    settings: Settings,
) -> None:
    send(log, settings, *map(event, range(10)))
    log.append(TOPIC, [Message("k", value, NOW) for value in bad])
    meanwhile: Any = Meanwhile(log, loader.load_once)
    slower = Loader(settings, catalog, meanwhile, "events")
    with pytest.raises(Fenced, match="run it again"):
        slower.load_once()
    assert counts(slower.load_once()) == (0, 0, 0)
    assert event_ids(settings) == sorted(f"e{n}" for n in range(10))
    assert [row["value"] for row in rows(settings, "dead_letters")] == bad


def test_a_compaction_in_between_is_no_obstacle(
    catalog: Catalog, log: EventLog, settings: Settings, loader: Loader
) -> None:
    send(log, settings, *map(event, range(5)))
    loader.load_once()
    send(log, settings, *map(event, range(5, 10)))

    def compact() -> None:
        table = open_raw_table(catalog, settings, "events")
        append = FencedAppend(table)
        append.commit(Restamping())

    meanwhile: Any = Meanwhile(log, compact)
    report = Loader(settings, catalog, meanwhile, "events").load_once()
    assert counts(report) == (5, 0, 0)
    assert event_ids(settings) == sorted(f"e{n}" for n in range(10))


class Restamping:
    """The fence of a commit that leaves offsets as they are on the head."""

    def check(self, metadata: Any) -> None:
        assert committed(metadata)

    def summary(self, metadata: Any) -> dict[str, str]:
        return {}


def test_two_loaders_killed_at_random(
    tmp_path: Path, log: EventLog, settings: Settings, catalog: Catalog
) -> None:
    for first in range(0, 125, 25):
        send(log, settings, *map(event, range(first, first + 25)))
        log.append(TOPIC, [Message("k", b"bad %d" % first, NOW)])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.loaders.killable"])
    chance = random.Random(11)
    kills = 0
    for _ in range(4):
        pair: list[BaseProcess] = []
        for _ in range(2):
            started = context.Event()
            arguments = (str(tmp_path), 5, started)
            process = context.Process(target=load_until_done, args=arguments)
            process.start()
            pair.append(process)
            assert started.wait(60)
        for process in pair:
            process.join(chance.random() * 0.4)
            if process.is_alive():
                process.kill()
                kills += 1
            process.join()
    halfway = len(event_ids(settings))
    list(Loader(settings, catalog, log, "events").catch_up())
    assert (kills > 0, halfway > 0) == (True, True)
    assert event_ids(settings) == sorted(f"e{n}" for n in range(125))
    letters = sorted(row["value"] for row in rows(settings, "dead_letters"))
    assert letters == sorted(b"bad %d" % n for n in range(0, 125, 25))
