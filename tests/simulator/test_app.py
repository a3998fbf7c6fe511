"""The app against a real collector and a real server that has no list yet."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from exporters.redis_store import online_store
from exporters.serving import create_app as serving_app
from feedloop.cli.simulate import command
from feedloop.clock import FileClock, SystemClock
from feedloop.contracts.log import EVENTS, ITEMS, USERS
from feedloop.errors import SettingsError, StepFailed
from feedloop.server import running
from feedloop.settings import Settings, from_environment, to_environment
from loaders.collector import create_app as collector_app
from loaders.log import open_log
from simulator.app import App, DayLog
from simulator.choice import PAGE, ChoiceModel
from simulator.client import Client
from simulator.outbox import Answer, accepted_of
from simulator.report import replay, score_day
from simulator.world import World, WorldSize, midnight
from tests.simulator.conftest import START

SIZE = WorldSize(
    people=120, items=150, new_people_a_day=6, new_items_a_day=8, retired_items_a_day=4
)
HISTORY_DAY, DAY = 0, 1


@dataclass
class Run:
    """What was sent on one day of history and one with pages."""

    settings: Settings
    app: App
    log: DayLog
    stored: dict[str, list[dict[str, Any]]]


@contextmanager
def servers(settings: Settings) -> Iterator[tuple[str, str]]:
    clock = FileClock(Path(settings.clock_file))
    with (
        closing(open_log(settings, clock)) as log,
        online_store(settings) as reached,
        running(collector_app(settings, log, clock)) as collector,
        running(serving_app(reached, clock)) as server,
    ):
        yield collector, server


def simulate(home: Path, seed: int = 5) -> Run:
    settings = from_environment(
        {}, home=str(home), namespace="t1", clock_file=str(home / "clock")
    )
    clock = FileClock(Path(settings.clock_file))
    clock.set(midnight(START))
    app = App(World(seed, START, 2, SIZE), ChoiceModel(), 4, clock.set)

    async def days(collector: str, server: str) -> DayLog:
        async with Client(settings, collector, server) as client:
            await app.open(client)
            await app.history_day(client, HISTORY_DAY, 2.0)
            return await app.day(client, DAY, 1.0)

    with servers(settings) as urls:
        log = asyncio.run(days(*urls))
    return Run(settings, app, log, in_log(settings, clock))


def in_log(settings: Settings, clock: FileClock) -> dict[str, list[dict[str, Any]]]:
    with closing(open_log(settings, clock)) as log:
        return {
            stream: [
                msgspec.json.decode(record.value or b"null")
                | {"~at": record.timestamp_ms}
                for record in log.read(settings.topic(stream), {}, 1_000_000).records
            ]
            for stream in (EVENTS, ITEMS, USERS)
        }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return simulate(tmp_path_factory.mktemp("app"))


def test_what_was_acknowledged_is_in_the_log(run: Run) -> None:
    tally = run.app.outbox.tally
    events = run.stored[EVENTS]
    ids = Counter(event["event_id"] for event in events)
    assert tally.sent == tally.acknowledged == len(ids) > 2000
    assert len(events) == tally.acknowledged + tally.sent_again
    assert sum(count - 1 for count in ids.values()) == tally.sent_again > 0
    assert tally.refused == 0


def test_rubbish_is_refused_and_counted(run: Run) -> None:
    tally = run.app.outbox.tally
    assert tally.rubbish_refused == tally.rubbish_sent == run.log.plan.rubbish.sum() > 0
    assert {refusal.status for refusal in run.app.outbox.refusals} <= {400, 422}


def test_an_event_sent_twice_is_the_same_event(run: Run) -> None:
    by_id: dict[str, dict[str, Any]] = {}
    for event in run.stored[EVENTS]:
        content = {name: value for name, value in event.items() if name != "~at"}
        assert by_id.setdefault(event["event_id"], content) == content


def test_events_arrive_after_they_occurred_some_hours_later(run: Run) -> None:
    delays = [
        datetime.fromtimestamp(event["~at"] / 1000, tz=occurred.tzinfo) - occurred
        for event in run.stored[EVENTS]
        if (occurred := datetime.fromisoformat(event["occurred_at"]))
    ]
    assert min(delays) >= timedelta(0)
    # What is sent at once comes with the end of its hour.
    assert sum(delay > timedelta(hours=1) for delay in delays) > 20
    held = run.app.outbox.tally.held
    assert 0 < held <= run.app.outbox.tally.late


def test_a_page_is_reported_whole_with_positions_from_one(run: Run) -> None:
    pages: dict[str, set[int]] = {}
    for event in run.stored[EVENTS]:
        if event["event_type"] == "impression":
            context = event["context"]
            pages.setdefault(context["session_id"], set()).add(context["page_position"])
            assert context["surface"] == "homepage"
            assert "request_id" not in context
    assert set(map(frozenset, pages.values())) == {frozenset(range(1, PAGE + 1))}


def test_without_a_list_the_app_shows_its_own_page(run: Run) -> None:
    assert not run.log.served.any()
    assert run.log.clicked.any()
    scores = score_day(run.app.world, run.app.model, 4, run.log)
    assert scores.without_list == scores.sessions == len(run.log.plan.person)
    assert scores.shown.sum() == 0


def test_the_replay_of_the_day_is_what_happened(run: Run) -> None:
    again = replay(run.app.world, run.app.model, run.log, run.log.pages)
    np.testing.assert_array_equal(again, run.log.clicked)


def test_clicks_in_the_log_are_those_of_the_choice_model(run: Run) -> None:
    world, plan = run.app.world, run.log.plan
    expected = Counter(
        (world.people.ids[plan.person[session]], world.items.ids[item])
        for session, item in [
            *(
                (session, run.log.pages[session, position])
                for session, position in np.argwhere(run.log.clicked)
            ),
            *zip(plan.find_session, plan.find_item, strict=True),
        ]
        if not plan.delay_s[session] > 0
    )
    first_instant = midnight(world.date(DAY)).isoformat()
    distinct = {event["event_id"]: event for event in run.stored[EVENTS]}
    stored = Counter(
        (event["user_id"], event["item_id"])
        for event in distinct.values()
        if event["event_type"] == "click" and event["occurred_at"] >= first_instant
    )
    # Of the offline phones, some were back before midnight.
    assert not expected - stored
    assert sum((stored - expected).values()) < 0.1 * sum(stored.values())


def test_the_catalogue_grows_and_shrinks_with_the_world(run: Run) -> None:
    world = run.app.world
    versions: dict[str, list[bool]] = {}
    for item in run.stored[ITEMS]:
        versions.setdefault(item["item_id"], []).append(item["is_active"])
    assert set(versions) == set(world.items.ids)
    gone = {item for item, states in versions.items() if states == [True, False]}
    assert gone == {
        item
        for item, day in zip(world.items.ids, world.items.retired_day, strict=True)
        if day <= DAY + 1
    }
    assert {user["user_id"] for user in run.stored[USERS]} == set(world.people.ids)


def test_the_same_seed_sends_the_same_events(run: Run, tmp_path: Path) -> None:
    def content(one: Run) -> set[str]:
        return {
            f"{event['event_id']} {event['event_type']} {event['item_id']} "
            f"{event['occurred_at']} {event['~at']}"
            for event in one.stored[EVENTS]
        }

    assert content(simulate(tmp_path)) == content(run)


def test_nobody_answers(tmp_path: Path) -> None:
    settings = from_environment({}, home=str(tmp_path))
    app = App(World(5, START, 1, SIZE), ChoiceModel(), 4, None)
    nowhere = "http://127.0.0.1:9"

    async def opened() -> None:
        async with Client(settings, nowhere, nowhere) as client:
            await app.open(client)

    with pytest.raises(StepFailed, match="start `feedloop collect`"):
        asyncio.run(opened())


def test_a_key_that_the_collector_does_not_know(tmp_path: Path) -> None:
    settings = from_environment({}, home=str(tmp_path))
    app = App(World(5, START, 1, SIZE), ChoiceModel(), 4, None)
    stranger = from_environment({}, home=str(tmp_path), write_keys="of-somebody-else")

    async def opened(collector: str, server: str) -> None:
        async with Client(stranger, collector, server) as client:
            await app.open(client)

    with (
        closing(open_log(settings, SystemClock())) as log,
        running(collector_app(settings, log, SystemClock())) as collector,
        pytest.raises(StepFailed, match="FEEDLOOP_WRITE_KEYS"),
    ):
        asyncio.run(opened(collector, collector))


def test_the_command_runs_against_any_platform(tmp_path: Path) -> None:
    settings = from_environment(
        {}, home=str(tmp_path), clock_file=str(tmp_path / "clock")
    )
    clock = FileClock(Path(settings.clock_file))
    clock.set(midnight(START) - timedelta(hours=5))
    small = ["--people", "30", "--items", "60", "--seed", "3", "--json"]

    def simulated(start: list[str]) -> dict[str, Any]:
        with servers(settings) as (collector, server):
            where = ["--collector-url", collector, "--server-url", server]
            result = CliRunner().invoke(
                command, [*small, *where, *start], env=to_environment(settings)
            )
        assert result.exit_code == 0, result.output
        report: dict[str, Any] = msgspec.json.decode(result.stdout)
        return report

    # By default the next whole day on the platform's clock.
    first = simulated([])
    assert [day["title"] for day in first["days"]] == [str(START)]
    assert first["tally"]["acknowledged"] == first["tally"]["sent"] > 100
    assert first["together"]["without_list"] == first["together"]["sessions"] > 0
    assert clock.now().date() == START

    # The same day once more: the same events again.
    second = simulated(["--start", str(START)])
    assert second == first
    ids = Counter(event["event_id"] for event in in_log(settings, clock)[EVENTS])
    assert len(ids) == first["tally"]["acknowledged"]


def test_days_that_are_not_over_need_a_clock_of_their_own(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        command,
        ["--start", "2999-01-01"],
        env=to_environment(from_environment({}, home=str(tmp_path))),
    )
    assert isinstance(result.exception, SettingsError)
    assert "FEEDLOOP_CLOCK_FILE" in str(result.exception)


def test_a_partly_accepted_batch_counts_what_was_accepted() -> None:
    body = msgspec.json.encode({"results": [], "accepted": 3, "rejected": 1})
    assert accepted_of(Answer(202, body)) == 3
    assert accepted_of(Answer(422, body)) == 0
    with pytest.raises(StepFailed, match="something else"):
        accepted_of(Answer(202, b"<html>"))
