"""The demo's story: what it does, in order, and what it says about it."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

import click
import httpx
import msgspec
from rich.console import Console
from rich.rule import Rule

from feedloop.cli.build import NightlyReport, nightly
from feedloop.cli.demo_counts import (
    Check,
    an_answered_click,
    break_a_line,
    counts,
    dead_letter,
)
from feedloop.cli.trace import trace
from feedloop.clock import FileClock
from feedloop.contracts.seeds import read_surfaces
from feedloop.errors import StepFailed
from feedloop.settings import Settings
from feedloop.telemetry import progress
from simulator.app import SURFACE, App, DayLog
from simulator.choice import ChoiceModel
from simulator.client import Client
from simulator.outbox import Tally
from simulator.report import (
    Figures,
    Following,
    Scores,
    figures,
    following,
    score_day,
    total,
)
from simulator.servers import Running
from simulator.tables import figures_tables, follow_sentence, table, verdict
from simulator.world import World, WorldSize, midnight

START = date(2026, 1, 5)
HISTORY_DAYS = 7
"""Days before the first list, on which people only find things themselves."""
HISTORY_FINDS = 2.0
FINDS = 1.0
ITEMS = 300
LIST_WAIT_S = 30.0
POLL_S = 0.05


class DemoReport(msgspec.Struct, frozen=True):
    """What came out. Durations in seconds."""

    days: list[Figures]
    together: Figures
    following: Following
    tally: Tally
    checks: list[Check]
    nights: list[NightlyReport]
    seconds: dict[str, float]
    first_list_s: float
    total_s: float
    loader_starts: int


@dataclass
class Demo:
    """One run, told to ``console`` as it goes."""

    settings: Settings
    days: int
    people: int
    seed: int
    console: Console
    seconds: dict[str, float] = field(default_factory=dict)
    nights: list[NightlyReport] = field(default_factory=list)
    logs: list[DayLog] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)
    daily: list[Figures] = field(default_factory=list)
    first_list_s: float = float("nan")

    def __post_init__(self) -> None:
        self.began = time.perf_counter()
        self.clock = FileClock(Path(self.settings.clock_file))
        self.clock.set(midnight(START))
        self.cap = read_surfaces(self.settings.seeds_dir)[SURFACE].diversity_cap
        self.world = World(
            self.seed,
            START,
            HISTORY_DAYS + self.days,
            WorldSize(people=self.people, items=ITEMS),
        )
        self.app = App(self.world, ChoiceModel(), self.cap, self.clock.set)

    def run(self, processes: Running) -> DemoReport:
        say = self.console.print
        collector, server, loader = processes
        self._rule("A homepage without recommendations")
        say(
            f"The collector listens on {collector}, the serving API on {server}.\n"
            f"For {HISTORY_DAYS} days {self.people} people find things by themselves.\n"
            f"The loader is process {loader.pid}: `kill -9 {loader.pid}` whenever you "
            "like. It is started\nagain, and the counts at the end agree all the same."
        )
        self._show_refusal(collector)
        with self._timed("simulate"):
            asyncio.run(self._history(collector, server))
        tally = self.app.outbox.tally
        say(f"{tally.acknowledged} events were sent over HTTP and acknowledged.")
        break_a_line(self.settings)

        self._rule("The first night")
        self._night(HISTORY_DAYS, server)
        self.first_list_s = round(time.perf_counter() - self.began, 1)
        say(f"The first list could be read after {self.first_list_s:.0f} s.")
        self._show_dead_letter()

        for day in range(HISTORY_DAYS, HISTORY_DAYS + self.days):
            self._rule(f"Day {day - HISTORY_DAYS + 1} of {self.days}")
            with self._timed("simulate"):
                asyncio.run(self._day(collector, server, day))
            self._night(day + 1, server)

        together = figures("together", total(self.scores), self.seed)
        self._rule("What came out")
        for shown in figures_tables(self.console, [*self.daily, together]):
            say(shown)
        say(verdict(together))
        follow = following(self.world, self.logs)
        if sum(follow.pairs):
            say(follow_sentence(follow))
        checks = counts(self.settings, tally, refused_by_hand=1)
        self._show_counts(checks, loader.starts)
        self._show_trace()
        report = DemoReport(
            self.daily,
            together,
            follow,
            tally,
            checks,
            self.nights,
            {name: round(value, 1) for name, value in self.seconds.items()},
            self.first_list_s,
            round(time.perf_counter() - self.began, 1),
            loader.starts,
        )
        self._last_screen(report)
        return report

    # --- days and nights -----------------------------------------------------

    async def _history(self, collector: str, server: str) -> None:
        async with Client(self.settings, collector, server) as client:
            with progress("days without lists", total=HISTORY_DAYS) as advance:
                await self.app.open(client)
                for day in range(HISTORY_DAYS):
                    await self.app.history_day(client, day, HISTORY_FINDS)
                    advance(1)

    async def _day(self, collector: str, server: str, day: int) -> None:
        sent = self.app.outbox.tally.acknowledged
        async with Client(self.settings, collector, server) as client:
            with progress("hours", total=24) as advance:
                log = await self.app.day(client, day, FINDS, advance)
        score = score_day(self.world, self.app.model, self.cap, log)
        self.logs.append(log)
        self.scores.append(score)
        figure = figures(str(self.world.date(day)), score, self.seed)
        self.daily.append(figure)
        ctr = {arm: row.ctr.value for arm, row in figure.arms.items()}
        self.console.print(
            f"{score.sessions} sessions were shown the lists of "
            f"{', '.join(log.model_versions) or 'nobody'}, "
            f"{self.app.outbox.tally.acknowledged - sent} events came back.\n"
            "Clicked of what was shown: "
            + ", ".join(f"{arm} {value:.2%}" for arm, value in ctr.items())
            + "."
        )
        if score.without_list:
            self.console.print(
                f"{score.without_list} sessions got no list from the server and saw "
                "the app's own page."
            )

    def _night(self, day: int, server: str) -> None:
        """Everything at the midnight before ``day``, then wait for the lists."""
        as_of = midnight(self.world.date(day))
        self.clock.set(as_of)
        report = nightly(self.settings, self.clock, as_of)
        for step, seconds in report.seconds.items():
            self.seconds[step] = self.seconds.get(step, 0.0) + seconds
        self.nights.append(report)
        with self._timed("go live"):
            wait_for_build(self.settings, server, report.build_id)
        steps = ", ".join(f"{k} {v:.1f} s" for k, v in report.seconds.items())
        self.console.print(
            f"Night: {report.lists} lists exported ({steps})\n"
            f"as build {report.build_id}."
        )

    # --- scenes --------------------------------------------------------------

    def _show_refusal(self, collector: str) -> None:
        """One bad event, to see the collector's answer to it."""
        event = {
            "user_id": "usr_1_00001",
            "item_id": "item_1_00001",
            "event_type": "click",
            "occurred_at": "the day before yesterday",
        }
        answer = httpx.post(
            f"{collector}/events",
            json=event,
            headers={"X-API-Key": self.settings.collect_keys.split(",")[0]},
        )
        if answer.status_code != 422:
            raise StepFailed(
                f"The collector answered {answer.status_code} to an event without a "
                f"time ({answer.text}); it should have refused it with 422."
            )
        self.console.print(
            f"\nA bad event is refused at the door: occurred_at = "
            f"{event['occurred_at']!r} gives\n  {answer.status_code} "
            f"{answer.text}\n"
        )

    def _show_dead_letter(self) -> None:
        self.console.print(
            "\nA line in the log, broken by hand, stopped nobody. It is kept in "
            "raw.dead_letters:"
        )
        for name, value in dead_letter(self.settings).items():
            self.console.print(f"  {name:<14} {value!s}")

    def _show_counts(self, checks: list[Check], loader_starts: int) -> None:
        shown = table(
            self.console, "counted at both ends", "expected", "found", "agree"
        )
        for check in checks:
            agree = "yes" if check.agrees else "NO"
            shown.add_row(check.what, str(check.expected), str(check.found), agree)
        self.console.print()
        self.console.print(shown)
        tally = self.app.outbox.tally
        self.console.print(
            f"{tally.late} events came hours or days late, {tally.held} are still on "
            f"phones; {tally.retries} requests had to be repeated. The loader was "
            f"started {times(loader_starts)}."
        )

    def _show_trace(self) -> None:
        event_id = an_answered_click(self.settings)
        if event_id is None:
            self.console.print(
                "\nNobody clicked a list, so that there is no way to show."
            )
            return
        found = trace(self.settings, event_id)
        self.console.print("\nThe way of one click (feedloop trace):")
        for line in way_of(event_id, found):
            self.console.print(f"  {line}")

    def _last_screen(self, report: DemoReport) -> None:
        self._rule("What just happened")
        seconds = ", ".join(f"{k} {v:.0f} s" for k, v in report.seconds.items())
        # dbt looks for its project in the current folder.
        home, root = Path(self.settings.home), Path(self.settings.project_dir)
        at_root = Path.cwd() == root
        shown = home.name if at_root else str(home)
        go_there = "" if at_root else f"  cd {root}\n"
        # `make demo` runs what the shell's PATH doesn't have
        if shutil.which("feedloop") is None:
            go_there += f"  . {_shown(Path(sys.prefix) / 'bin' / 'activate', root)}\n"
        self.console.print(
            f"An app sent {report.tally.acknowledged} events over HTTP. Each night\n"
            "they were loaded into Iceberg, turned by dbt into features and "
            f"{report.nights[-1].lists} ranked\nlists, and exported to Redis; the next "
            "day people reacted to those lists.\n"
            f"{len(report.nights)} nights and {self.days} days took "
            f"{report.total_s:.0f} s: {seconds}.\n\n"
            f"It is all in {shown}: log, tables, warehouse, builds.\n"
            "Point the commands at it and look around:\n\n"
            f"{go_there}"
            f"  export FEEDLOOP_HOME={shown} FEEDLOOP_CLOCK_FILE={shown}/clock\n"
            "  dbt docs generate --static    # the lineage: target/static_index.html\n"
            "  dbt show --inline \"select * from {{ ref('rec_lists') }}\"\n"
            "  feedloop trace EVENT_ID       # the way of an event, such as above\n"
            "  feedloop evaluate --slot      # what exploration earns\n"
            "  feedloop dead-letters         # what could not be stored, and why\n"
            "  feedloop serve                # GET /recommendations on port 8081\n"
            "  feedloop settings             # all that can be set\n\n"
            "`feedloop demo --keep` leaves the APIs up to play with. In a new shell,\n"
            "`feedloop import movielens-100k && feedloop build` takes real data.",
            soft_wrap=True,
        )

    def invite_to_servers(self, processes: Running) -> None:
        collector, server = processes.collector, processes.server
        user = self.world.people.ids[0]
        item = self.world.items.ids[0]
        read, collect = (
            keys.split(",")[0]
            for keys in (self.settings.read_keys, self.settings.collect_keys)
        )
        click.echo(
            "\nThe APIs stay up until Ctrl-C. Try:\n\n"
            f"  curl -H 'X-API-Key: {read}' '{server}/recommendations/{user}?limit=5'\n"
            f"  curl -H 'X-API-Key: {read}' '{server}/recommendations/somebody-new'\n"
            f"  curl -H 'X-API-Key: {collect}' '{collector}/events' -d '"
            f'{{"user_id": "{user}", "item_id": "{item}", "event_type": "click", '
            f'"occurred_at": "{_stamp(self.clock.now())}"}}'
            "'\n"
            f"  curl '{collector}/metrics'\n"
        )

    def _rule(self, title: str) -> None:
        self.console.print()
        self.console.print(Rule(title, align="left", characters="-"))

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        taken = time.perf_counter() - began
        self.seconds[step] = self.seconds.get(step, 0.0) + taken


def wait_for_build(settings: Settings, server: str, build_id: str) -> None:
    """Return once the server gives lists of ``build_id``."""
    headers = {"X-API-Key": settings.read_keys.split(",")[0]}
    deadline = time.monotonic() + LIST_WAIT_S
    said = ""
    with httpx.Client(base_url=server, headers=headers) as client:
        while time.monotonic() < deadline:
            answer = client.get("/recommendations/anybody")
            said = answer.text
            if answer.status_code == 200 and answer.json()["build_id"] == build_id:
                return
            time.sleep(POLL_S)
    raise StepFailed(
        f"The serving API did not take up build {build_id} within {LIST_WAIT_S:.0f} s; "
        f"its last answer was: {said}"
    )


def times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def way_of(event_id: str, found: dict[str, Any]) -> list[str]:
    """A trace in a few lines."""
    log, event = found["log"], found["event"]
    lines = [
        f"event      {event_id}",
        f"log        {log['topic']}, partition {log['partition']}, "
        f"offset {log['offset']}",
        f"row        {event['user_id']} clicked {event['item_id']} at "
        f"{_stamp(event['occurred_at'])}, loaded by commit {log['load_seq']}",
    ]
    answered = found["answers"]
    if answered:
        lines.append(
            f"answers    list {answered['rec_id']}, position {answered['position']}, "
            f"there as {answered['source']} with probability "
            f"{answered['propensity']:.2g}"
        )
        if answered["reasons"]:
            lines.append(f"because    {', '.join(answered['reasons'])}")
    lines.append(
        "outcomes   " + ", ".join(one["event_type"] for one in found["outcomes"])
    )
    changed = [one["feature"] for one in found["features"]]
    named = ", ".join(changed[:3]) + (", …" if len(changed) > 3 else "")
    lines.append(f"features   {len(changed)} changed that night: {named}")
    after = found["next_list"]
    if after:
        first = ", ".join(after["first_items"][:3])
        lines.append(f"next list  {after['rec_id']}: {first}, …")
    return lines


def _shown(path: Path, root: Path) -> str:
    """``path`` as one would type it at ``root``."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _stamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
