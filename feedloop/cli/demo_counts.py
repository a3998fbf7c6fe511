"""The demo's bookkeeping: what phones sent against what the tables hold."""

from __future__ import annotations

from pathlib import Path

import msgspec

from feedloop.errors import StepFailed
from feedloop.settings import Settings
from loaders.duckdb_plugin import raw_views
from simulator.outbox import Tally

BROKEN_LINE = b"a line that somebody wrote by hand, and no event at all\n"


class Check(msgspec.Struct, frozen=True):
    """Two counts that must be equal."""

    what: str
    expected: int
    found: int

    @property
    def agrees(self) -> bool:
        return self.expected == self.found


def break_a_line(settings: Settings) -> None:
    """Append BROKEN_LINE to the log by hand, behind the collector's back."""
    path = _event_files(settings)[0]
    with path.open("ab") as file:
        file.write(BROKEN_LINE)


def counts(settings: Settings, tally: Tally, refused_by_hand: int) -> list[Check]:
    """Every count that must agree when all that was sent has been loaded.

    ``refused_by_hand`` counts malformed events that the demo itself sent.
    """
    in_log = sum(_lines(path) for path in _event_files(settings))
    with raw_views(settings) as connection:
        row = connection.execute(
            "select count(*), count(distinct event_id) from events"
        ).fetchone()
        dead = connection.execute(
            "select count(*), count(*) filter (value = ?) from dead_letters",
            [BROKEN_LINE.rstrip(b"\n")],
        ).fetchone()
    if row is None or dead is None:
        raise StepFailed("The raw tables could not be counted.")
    return [
        Check("events sent = acknowledged with 202", tally.sent, tally.acknowledged),
        Check(
            "acknowledged + sent twice + 1 by hand = lines in the log",
            tally.acknowledged + tally.sent_again + 1,
            in_log,
        ),
        Check("acknowledged = rows of raw.events", tally.acknowledged, row[0]),
        Check("rows of raw.events = different event_ids", row[0], row[1]),
        Check(
            "malformed events sent = refused with 400 or 422",
            tally.rubbish_sent + refused_by_hand,
            tally.rubbish_refused + refused_by_hand,
        ),
        Check("lines broken by hand = dead letters", 1, dead[0]),
        Check("of these, the very bytes of the broken line", 1, dead[1]),
    ]


def fail_where_they_differ(checks: list[Check]) -> None:
    wrong = [check for check in checks if not check.agrees]
    if wrong:
        raise StepFailed(
            "What was sent and what is stored don't agree: "
            + "; ".join(f"{c.what}: {c.expected} and {c.found}" for c in wrong)
            + ". This is a fault of Feedloop; keep the demo's folder and report it."
        )


def dead_letter(settings: Settings) -> dict[str, object]:
    """The newest dead letter as its table has it."""
    with raw_views(settings) as connection:
        rows = connection.execute(
            "select stream, log_partition, log_offset, ingested_at, field, reason, "
            "decode(value) as value from dead_letters order by load_seq desc limit 1"
        )
        columns = [column[0] for column in rows.description or []]
        row = rows.fetchone()
    if row is None:
        raise StepFailed(
            "The broken line is in no dead letter; look at `feedloop dead-letters`."
        )
    return dict(zip(columns, row, strict=True))


def an_answered_click(settings: Settings) -> str | None:
    """The id of a click on a list, early enough that later builds know it."""
    with raw_views(settings) as connection:
        row = connection.execute(
            "select event_id from events where event_type = 'click' "
            "and rec_id is not null order by occurred_at, event_id limit 1"
        ).fetchone()
    return str(row[0]) if row else None


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _event_files(settings: Settings) -> list[Path]:
    return sorted((settings.log_dir / settings.topic("events")).glob("*.jsonl"))
