"""The simulated app: it moves its clock through a day hour by hour, shows
people lists, and reports what they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from simulator.choice import NOTHING, PAGE, ChoiceModel, Draws, draw, react
from simulator.client import Client, ServedList
from simulator.messages import Event, Session
from simulator.outbox import Outbox, gather
from simulator.pages import Morning, popularity_pages
from simulator.plan import HOUR_S, DayPlan, plan_day
from simulator.world import DAY_S, DEVICES, Bools, Floats, Ints, World

SURFACE = "homepage"
SEARCH = "search"
RECENT_DAYS = 3
"""Days whose clicks make the popularity list."""
PAGE_S = 25.0
"""Seconds from one click on a page to one on the position below."""
FINDS_AFTER_S = PAGE_S * PAGE + 10
FIND_S = 20.0

SetClock = Callable[[datetime], None]


@dataclass(frozen=True)
class DayLog:
    """What the app knows of a day, for the report. Rows are sessions.

    ``pages`` [sessions, PAGE] are the item rows that were shown; ``served``
    says whether the pipeline gave them, else it was the app's own fallback.
    ``clicked`` [sessions, PAGE] is what people clicked of them.
    """

    morning: Morning
    plan: DayPlan
    draws: Draws
    pages: Ints
    served: Bools
    clicked: Bools
    model_versions: Sequence[str]


@dataclass
class _Running:
    """A day while it goes on. ``today`` [people, items] are clicks on pages."""

    morning: Morning
    plan: DayPlan
    draws: Draws
    appeal: Floats
    today: Bools
    pages: Ints
    served: Bools
    clicked: Bools
    model_versions: set[str] = field(default_factory=set)


class App:
    """One app and its people; the truth about them stays in here.

    ``set_clock`` moves the simulated clock (None: the servers use their own).
    ``cap`` is the surface's diversity cap, which the app's own page obeys too.
    """

    def __init__(
        self, world: World, model: ChoiceModel, cap: int, set_clock: SetClock | None
    ) -> None:
        self.world = world
        self.model = model
        self.cap = cap
        self.outbox = Outbox(self._arrived)
        self._set_clock = set_clock
        people, items = len(world.people.ids), len(world.items.ids)
        self._clicked = np.zeros((people, items), dtype=bool)
        self._known_clicked = np.zeros((people, items), dtype=bool)
        self._clicks_by_day = np.zeros((world.days, items), dtype=np.int64)
        self._today = 0
        self._row = {item_id: row for row, item_id in enumerate(world.items.ids)}

    async def open(self, client: Client) -> None:
        """Register everyone and everything from before the first day."""
        self._move_clock(0.0)
        await self._register(
            client,
            np.flatnonzero(self.world.items.published_day < 0),
            np.flatnonzero(self.world.people.joined_day < 0),
        )

    async def history_day(self, client: Client, day: int, finds: float) -> None:
        """A day before there were lists: people only find by themselves, about
        ``finds`` items a session, and a backend sends for all phones."""
        morning, plan = self._morning(day, finds)
        appeal = self._appeal(morning, plan)
        for hour in range(24):
            await self._begin_hour(client, day, hour)
            sessions = [self._session(plan, row) for row in _of_hour(plan, hour)]
            for session, row in zip(sessions, _of_hour(plan, hour), strict=True):
                self._report_finds(session, plan, row, appeal)
            await self.outbox.send_bulk(client, sessions)
        await self._end_day(client, plan)

    async def day(
        self,
        client: Client,
        day: int,
        finds: float,
        advance: Callable[[float], None] = lambda _: None,
    ) -> DayLog:
        """A day with a list in every session; ``advance`` hears of each hour."""
        morning, plan = self._morning(day, finds)
        sessions = len(plan.person)
        ordinal = self.world.date(day).toordinal()
        running = _Running(
            morning,
            plan,
            draw(self.world.seed, ordinal, sessions, self.world.catalogue(day)),
            self._appeal(morning, plan),
            np.zeros_like(self._clicked),
            np.full((sessions, PAGE), NOTHING),
            np.zeros(sessions, dtype=bool),
            np.zeros((sessions, PAGE), dtype=bool),
        )
        for hour in range(24):
            await self._begin_hour(client, day, hour)
            await self._hour(client, running, hour)
            advance(1)
        self._clicked |= running.today
        await self._end_day(client, plan)
        return DayLog(
            morning,
            plan,
            running.draws,
            running.pages,
            running.served,
            running.clicked,
            sorted(running.model_versions),
        )

    # --- the course of a day -------------------------------------------------

    def _morning(self, day: int, finds: float) -> tuple[Morning, DayPlan]:
        self._today = day
        recent = self._clicks_by_day[max(0, day - RECENT_DAYS) : day].sum(axis=0)
        morning = Morning(day, self._clicked.copy(), self._known_clicked.copy(), recent)
        plan = plan_day(self.world, self.model, day, self._clicked, recent, finds)
        return morning, plan

    def _appeal(self, morning: Morning, plan: DayPlan) -> Floats:
        """[sessions, items] As it is in the morning."""
        appeal = self.model.appeal(self.world, morning.day, plan.person)
        appeal -= (
            self.model.dullness * (morning.clicked[plan.person, : appeal.shape[1]])
        )
        return appeal

    async def _begin_hour(self, client: Client, day: int, hour: int) -> None:
        """Move the clock to the end of the hour, so that what happens in it is
        past; then register who and what is new, and let late phones send."""
        begin_s = day * DAY_S + hour * HOUR_S
        self._move_clock(_end_s(day, hour))
        published_s = self.world.items.published_s
        joined_s = self.world.people.joined_s
        await self._register(
            client,
            np.flatnonzero((published_s >= begin_s) & (published_s < begin_s + HOUR_S)),
            np.flatnonzero((joined_s >= begin_s) & (joined_s < begin_s + HOUR_S)),
        )
        await self.outbox.release(client, _end_s(day, hour))

    async def _hour(self, client: Client, running: _Running, hour: int) -> None:
        plan = running.plan
        rows = _of_hour(plan, hour)
        people = plan.person[rows]
        lists = await gather(
            [
                client.recommendations(self.world.people.ids[person], SURFACE, PAGE)
                for person in people
            ]
        )
        self._show(running, rows, lists)
        # A person has one session an hour at most: all of them at once.
        dull = running.today[people] & ~running.morning.clicked[people]
        dull = dull[:, : running.appeal.shape[1]]
        reaction = react(
            self.model,
            running.pages[rows],
            running.appeal[rows] - self.model.dullness * dull,
            running.draws.look[rows],
            running.draws.click[rows],
        )
        running.clicked[rows] = reaction.clicked
        clicking, position = np.nonzero(reaction.clicked)
        running.today[people[clicking], running.pages[rows][clicking, position]] = True

        sessions = []
        for row, served, examined in zip(rows, lists, reaction.examined, strict=True):
            session = self._session(plan, row)
            self._report_page(session, running, row, served, examined)
            self._report_finds(session, plan, row, running.appeal)
            if plan.delay_s[row]:
                session.due_s = plan.start_s[row] + plan.delay_s[row]
            session.sent_twice = bool(plan.sent_twice[row])
            sessions.append(session)
        await self.outbox.send(client, sessions, _end_s(plan.day, hour))
        for session, row in zip(sessions, rows, strict=True):
            if plan.rubbish[row]:
                await self.outbox.spoil(client, session)

    def _show(
        self, running: _Running, rows: Ints, lists: Sequence[ServedList | None]
    ) -> None:
        """Put the lists on the pages, and the app's own where there is none."""
        people = running.plan.person[rows]
        if any(served is None for served in lists):
            running.pages[rows] = popularity_pages(
                self.world, running.morning, people, self.cap
            )
        for row, served in zip(rows, lists, strict=True):
            if served is not None:
                # An item that the app doesn't know can't be shown.
                page = [self._row.get(one.item_id, NOTHING) for one in served.items]
                running.pages[row] = (page + [NOTHING] * PAGE)[:PAGE]
                running.served[row] = True
                running.model_versions.add(served.model_version)

    async def _end_day(self, client: Client, plan: DayPlan) -> None:
        # What people found by themselves was decided in the morning, so that
        # it can judge all lists alike; it is dull from tomorrow on.
        self._clicked[plan.person[plan.find_session], plan.find_item] = True
        leaving = np.flatnonzero(self.world.items.retired_day == plan.day + 1)
        await gather([self._put_item(client, item, False) for item in leaving.tolist()])
        self.outbox.tally.retries += client.retries
        client.retries = 0

    # --- what the app tells --------------------------------------------------

    async def _register(self, client: Client, items: Ints, people: Ints) -> None:
        await gather([self._put_item(client, item, True) for item in items.tolist()])
        ids = self.world.people.ids
        await gather(
            [
                client.put("users", ids[person], self.world.user_record(person))
                for person in people.tolist()
            ]
        )

    async def _put_item(self, client: Client, item: int, is_active: bool) -> None:
        record = self.world.item_record(item, is_active=is_active)
        await client.put("items", self.world.items.ids[item], record)

    def _session(self, plan: DayPlan, row: int) -> Session:
        person = int(plan.person[row])
        people = self.world.people
        return Session(
            f"{self.world.seed}/{self.world.date(plan.day)}/{row}",
            person,
            people.ids[person],
            DEVICES[people.device[person]],
            self.world.instant(plan.start_s[row]),
        )

    def _report_page(
        self,
        session: Session,
        running: _Running,
        row: int,
        served: ServedList | None,
        examined: Bools,
    ) -> None:
        """Impressions of the whole page, then what the person did with it."""
        shown: Event = {"surface": SURFACE}
        if served is not None:
            shown["request_id"] = served.request_id
            shown["model_version"] = served.model_version
        items = self.world.items
        positions = np.flatnonzero(running.pages[row] != NOTHING)
        for position in positions:
            item_id = items.ids[running.pages[row, position]]
            context = shown | {"page_position": int(position) + 1}
            session.report("impression", item_id, 1 + 0.1 * position, context)
        on_desktop = DEVICES[self.world.people.device[session.person]] == "desktop"
        for position in positions[examined[positions]]:
            item = int(running.pages[row, position])
            context = shown | {"page_position": int(position) + 1}
            after_s = 5 + PAGE_S * float(position)
            uniform = running.draws.follow[row, position]
            appeal = float(running.appeal[row, item])
            if running.clicked[row, position]:
                session.engage(
                    item,
                    items.ids[item],
                    float(items.price[item]),
                    after_s,
                    context,
                    appeal,
                    uniform,
                )
                continue
            if on_desktop and uniform[5] < self.model.hover:
                session.report("hover", items.ids[item], after_s, context)
            if uniform[6] < self.model.scroll_past:
                session.report("scroll_past", items.ids[item], after_s, context)
            if uniform[7] < self.model.skip_chance(appeal):
                session.report("skip", items.ids[item], after_s + 1, context)

    def _report_finds(
        self, session: Session, plan: DayPlan, row: int, appeal: Floats
    ) -> None:
        """What the person found by themselves, on a surface without lists."""
        items = self.world.items
        for number, find in enumerate(np.flatnonzero(plan.find_session == row)):
            item = int(plan.find_item[find])
            session.engage(
                item,
                items.ids[item],
                float(items.price[item]),
                FINDS_AFTER_S + FIND_S * number,
                {"surface": SEARCH},
                float(appeal[row, item]),
                plan.find_uniform[find],
            )

    def _arrived(self, session: Session) -> None:
        self._known_clicked[session.person, session.clicks] = True
        np.add.at(self._clicks_by_day[self._today], session.clicks, 1)

    def _move_clock(self, second: float) -> None:
        if self._set_clock is not None:
            self._set_clock(self.world.instant(second))


def _of_hour(plan: DayPlan, hour: int) -> Ints:
    """The rows of the sessions that begin in ``hour``, in order of time."""
    begin_s = plan.day * DAY_S + hour * HOUR_S
    first, last = np.searchsorted(plan.start_s, (begin_s, begin_s + HOUR_S))
    return np.arange(first, last)


def _end_s(day: int, hour: int) -> float:
    return float(day * DAY_S + (hour + 1) * HOUR_S - 1)
