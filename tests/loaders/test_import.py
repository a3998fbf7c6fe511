"""Files of one's own: what is imported and what is refused."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from feedloop.cli.import_data import command
from feedloop.clock import FixedClock
from feedloop.contracts.log import EVENTS, ITEMS, USERS
from feedloop.errors import ImportFailed
from feedloop.settings import Settings, to_environment
from loaders.importing import ImportReport, import_file
from loaders.mapping import TARGETS, parse_map
from loaders.messages import Cut, MessageBuilder
from loaders.row_sources import CHUNK_ROWS, LINE_CHARACTERS, open_rows
from tests.loaders.left_behind import in_log, in_table, nothing_was_sent

EVENT_MAP = "user_id=who,item_id=what,event_type=did,occurred_at=at"
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture
def run(settings: Settings, clock: FixedClock) -> Callable[..., ImportReport]:
    def run(
        path: Path, maps: str = EVENT_MAP, into: str = EVENTS, **options: Any
    ) -> ImportReport:
        field_map = parse_map([maps], TARGETS[into])
        return import_file(settings, clock, path, field_map, **options)

    return run


def ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


# --- files -------------------------------------------------------------------


CSV = """\
who,what,did,at,price,visit
1,a,view,2026-01-05T12:00:00Z,,s1
2,"b, the
second",purchase,2026-01-05T13:00:00+01:00,9.5,s2
1,c,view,2026-01-05 12:00:01,,
"""
FULL_MAP = EVENT_MAP + ",event_value=price,context.session_id=visit,context.app='web'"


def test_a_csv_becomes_rows(
    write: Callable[..., Path],
    run: Callable[..., ImportReport],
    settings: Settings,
) -> None:
    report = run(write("events.csv", CSV), FULL_MAP)
    assert report == ImportReport(
        name="events.csv",
        sent={"events": 3, "items": 0, "users": 0},
        first=NOON,
        last=NOON + timedelta(seconds=1),
        stored={"events": 3, "items": 0, "users": 0},
        dead_letters=0,
        duplicates=0,
    )
    rows = {row["item_id"]: row for row in in_table(settings, "events")}
    assert {
        item: (
            row["user_id"],
            row["event_type"],
            row["occurred_at"],
            row["event_value"],
            row["session_id"],
            row["context"],
        )
        for item, row in rows.items()
    } == {
        "a": ("1", "view", NOON, None, "s1", '{"session_id":"s1","app":"web"}'),
        "b, the\nsecond": (
            "2",
            "purchase",
            NOON,
            9.5,
            "s2",
            '{"session_id":"s2","app":"web"}',
        ),
        "c": ("1", "view", NOON + timedelta(seconds=1), None, None, '{"app":"web"}'),
    }
    # what was known when is what happened when
    assert all(row["ingested_at"] == row["occurred_at"] for row in rows.values())


def test_the_log_has_the_key_and_the_time_of_the_event(
    write: Callable[..., Path],
    run: Callable[..., ImportReport],
    settings: Settings,
    clock: FixedClock,
) -> None:
    run(write("events.csv", CSV), FULL_MAP)
    sent = in_log(settings, clock, EVENTS)
    assert {(m["~key"], m["item_id"], m["~ms"]) for m in sent} == {
        ("1", "a", ms(NOON)),
        ("2", "b, the\nsecond", ms(NOON)),
        ("1", "c", ms(NOON) + 1000),
    }


def test_json_lines_and_parquet_say_the_same(
    write: Callable[..., Path],
    run: Callable[..., ImportReport],
    settings: Settings,
    clock: FixedClock,
    tmp_path: Path,
) -> None:
    lines = [
        {"who": 1, "what": "a", "did": "view", "at": ms(NOON), "more": {"page": 2}},
        {"who": 2, "what": "b", "did": "click", "at": ms(NOON) + 7},
    ]
    maps = EVENT_MAP + ",context=more"
    text = b"\n".join(map(msgspec.json.encode, lines))
    run(write("events.jsonl.gz", gzip.compress(text)), maps)
    from_json = in_log(settings, clock, EVENTS)
    assert {m["occurred_at"] for m in from_json} == {
        "2026-01-05T12:00:00Z",
        "2026-01-05T12:00:00.007000Z",
    }
    assert {m["user_id"]: m.get("context") for m in from_json} == {
        "1": {"page": 2},
        "2": None,
    }

    table = pa.table(
        {
            "who": pa.array([1.0, 2.0, None]),  # as gaps make integers floats
            "what": pa.array([b"a", b"b", b"c"]),
            "did": pa.array(["view", "click", "click"]).dictionary_encode(),
            "at": pa.array([ms(NOON), ms(NOON) + 7, None]).cast(pa.timestamp("ms")),
            "more": ['{"page": 2}', None, "no object"],
        }
    )
    path = tmp_path / "events.parquet"
    pq.write_table(table, path)
    report = run(path, maps)
    assert (report.duplicates, report.dead_letters) == (2, 1)
    assert report.stored[EVENTS] == 0


def test_importing_twice_stores_once(
    write: Callable[..., Path], run: Callable[..., ImportReport], settings: Settings
) -> None:
    run(write("monday.csv", CSV), EVENT_MAP + ",event_value=price")
    ids = {row["event_id"] for row in in_table(settings, "events")}
    again = run(
        write("overlapping export.csv", CSV + "9,z,view,1767614400,,\n"), FULL_MAP
    )
    assert again.sent[EVENTS] == 4
    assert (again.stored[EVENTS], again.duplicates) == (1, 3)
    stored = in_table(settings, "events")
    assert len(stored) == 4
    assert ids < {row["event_id"] for row in stored}


def test_own_event_ids_are_kept(
    write: Callable[..., Path], run: Callable[..., ImportReport], settings: Settings
) -> None:
    path = write("e.csv", "id,who,what,did,at\nx1,1,a,view,1767614400\n")
    run(path, EVENT_MAP + ",event_id=id")
    assert [row["event_id"] for row in in_table(settings, "events")] == ["x1"]


def test_items_and_users(
    write: Callable[..., Path], run: Callable[..., ImportReport], settings: Settings
) -> None:
    items = write(
        "items.csv",
        "id;kind;since;on;words;color\n"
        "a;film;1922-03-04;false;old|black and white;none\n"
        "b;film;2026-01-05T12:00:00Z;1;;red\n",
    )
    report = run(
        items,
        "item_id=id,category=kind,published_at=since,is_active=on,tags=words,"
        "metadata.color=color",
        ITEMS,
    )
    assert (report.stored[ITEMS], report.dead_letters) == (2, 0)
    a, b = sorted(in_table(settings, "items"), key=lambda row: str(row["item_id"]))
    assert a["published_at"] == datetime(1922, 3, 4, tzinfo=UTC)
    assert a["ingested_at"] == datetime(1970, 1, 1, tzinfo=UTC)  # a log's first time
    assert (a["is_active"], b["is_active"]) == (False, True)
    assert (a["tags"], b["tags"]) == (["old", "black and white"], [])
    assert a["metadata"] == '{"color":"none"}'

    users = write("users.jsonl", '{"user":7,"joined":1767614400,"land":"BR"}\n')
    run(users, "user_id=user,created_at=joined,country=land", USERS)
    (user,) = in_table(settings, "users")
    assert (user["user_id"], user["created_at"], user["country"]) == ("7", NOON, "BR")


# --- what is taken -----------------------------------------------------------


@pytest.mark.parametrize(
    ("cut", "items"),
    [
        (Cut(since=NOON + timedelta(hours=1)), ["i1", "i2", "i3"]),
        (Cut(until=NOON + timedelta(hours=1)), ["i0"]),
        (Cut(NOON + timedelta(hours=1), NOON + timedelta(hours=3)), ["i1", "i2"]),
        (Cut(since=NOON + timedelta(hours=1), limit=2), ["i1", "i2"]),
        (Cut(limit=3), ["i0", "i1", "i2"]),
        (Cut(since=NOON + timedelta(hours=9)), []),
    ],
)
def test_a_cut(
    write: Callable[..., Path],
    run: Callable[..., ImportReport],
    settings: Settings,
    clock: FixedClock,
    cut: Cut,
    items: list[str],
) -> None:
    rows = [f"u,i{n},view,{(NOON + timedelta(hours=n)).isoformat()}" for n in range(4)]
    path = write("e.csv", "\n".join(["who,what,did,at", *rows]))
    report = run(path, cut=cut)
    assert report.sent[EVENTS] == len(items)
    assert sorted(m["item_id"] for m in in_log(settings, clock, EVENTS)) == items


def test_chunks_make_no_difference(write: Callable[..., Path]) -> None:
    lines = [f"1,i{n},view,{1767614400 + n}" for n in range(7)]
    lines[3] = "torn,line"
    source = open_rows(write("e.csv", "\n".join(["who,what,did,at", *lines])))
    builder = MessageBuilder(parse_map([EVENT_MAP], TARGETS[EVENTS]))

    def taken(rows: int, limit: int | None) -> list[tuple[int, bytes | None]]:
        return sorted(
            (number, message.value)
            for built in builder.built(source, Cut(limit=limit), rows)
            for number, message in zip(built.numbers, built.messages, strict=True)
        )

    whole = taken(100, None)
    assert [number for number, _ in whole] == [1, 2, 3, 4, 5, 6, 7]
    assert whole[3] == (4, b"torn,line")
    for rows in (1, 2, 3, 7):
        assert taken(rows, None) == whole
    assert taken(2, 3) == whole[:3]


# --- bad rows ----------------------------------------------------------------


BAD = b"""\
who,what,did,at
1,a,view,1767614400
1,b,view,yesterday
1,c,wink,1767614402
,d,view,1767614403
1,\xff\xfe,view,1767614404
1,f,view
1,g,view,631065600
"""


def test_bad_rows_become_dead_letters(
    write: Callable[..., Path],
    run: Callable[..., ImportReport],
    settings: Settings,
    clock: FixedClock,
) -> None:
    report = run(write("e.csv", BAD))
    assert (report.sent[EVENTS], report.stored[EVENTS]) == (7, 1)
    assert report.dead_letters == 6
    dead = in_table(settings, "dead_letters")
    found = {(row["field"], row["reason"].split(";")[0]) for row in dead}
    assert found == {
        ("occurred_at", "Invalid RFC3339 encoded datetime"),
        ("event_type", "unknown type 'wink'"),
        ("user_id", "Object missing required field `user_id`"),
        (
            None,
            "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        ),
        (None, "Expected `object`, got `int`"),
        ("occurred_at", "earlier than 1990-01-01"),
    }
    values = {row["value"] for row in dead}
    assert b"1,f,view" in values
    assert any(b'"item_id":"\xff\xfe"' in value for value in values)
    assert any(b'"occurred_at":"yesterday"' in value for value in values)
    by_value = {row["value"]: row for row in dead}
    # what has no time of its own has that of the import
    assert by_value[b"1,f,view"]["ingested_at"] == clock.now()


def test_lines_that_are_no_objects(
    write: Callable[..., Path], run: Callable[..., ImportReport], settings: Settings
) -> None:
    good = '{"who":"1","what":"a","did":"view","at":1767614400}'
    path = write("e.jsonl", f"{good}\n[1]\n\n{{torn\n")
    report = run(path)
    assert (report.stored[EVENTS], report.dead_letters) == (1, 2)
    dead = {row["value"] for row in in_table(settings, "dead_letters")}
    assert dead == {b"[1]", b"{torn"}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            "1,b,view,yesterday",
            r"e\.csv, row 2 \(from 1, a header not counted\), column 'at' "
            r"\(occurred_at\): 'yesterday': Invalid RFC3339",
        ),
        (
            "1,b,wink,1767614400",
            r"row 2 .*column 'did' \(event_type\): 'wink': unknown",
        ),
        (",b,view,1767614400", r"row 2 .*column 'who' \(user_id\): .*missing"),
        ("1,b,view", r"row 2 .*the row: "),
        (f"1,{'x' * 129},view,1767614400", r"row 2 .*column 'what' .*xxx…: "),
    ],
)
def test_strict_imports_nothing(
    write: Callable[..., Path],
    run: Callable[..., ImportReport],
    settings: Settings,
    clock: FixedClock,
    row: str,
    sentence: str,
) -> None:
    path = write("e.csv", f"who,what,did,at\n1,a,view,1767614400\n{row}\n")
    with pytest.raises(ImportFailed, match=sentence):
        run(path, strict=True)
    assert nothing_was_sent(settings, clock)


def test_strict_finds_a_bad_row_in_a_later_chunk(
    write: Callable[..., Path],
    run: Callable[..., ImportReport],
    settings: Settings,
    clock: FixedClock,
) -> None:
    rows = "1,a,view,1767614400\n" * CHUNK_ROWS
    path = write("e.csv", f"who,what,did,at\n{rows}1,a,view,never\n")
    with pytest.raises(ImportFailed, match=f"row {CHUNK_ROWS + 1} .*'never'"):
        run(path, strict=True)
    assert nothing_was_sent(settings, clock)


def test_where_all_rows_fail_nothing_is_sent(
    write: Callable[..., Path],
    run: Callable[..., ImportReport],
    settings: Settings,
    clock: FixedClock,
) -> None:
    rows = "1,a,view,05.01.2026\n" * 1001 + "1,a,view,1767614400\n"
    path = write("e.csv", f"who,what,did,at\n{rows}")
    with pytest.raises(
        ImportFailed, match=r"row 1 .*'at' .*--time-unit.* first 1000 rows.*nothing"
    ):
        run(path)
    assert nothing_was_sent(settings, clock)


def test_a_constant_that_no_row_may_have(
    write: Callable[..., Path], run: Callable[..., ImportReport]
) -> None:
    path = write("e.csv", "who,what,at\n1,a,1767614400\n")
    maps = "user_id=who,item_id=what,occurred_at=at,event_type='klick'"
    with pytest.raises(
        ImportFailed, match=r"the constant 'klick' \(event_type\): 'klick'"
    ):
        run(path, maps)


# --- what can't be read ------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("e.csv", b"", "e.csv is empty"),
        ("e.json", b'[{"who": 1}]', "one JSON array; write one object a line"),
        ("e.parquet", b"PAR1torn", "not a whole Parquet file"),
        ("e.csv.gz", b"no gzip", "can't be read"),
        ("e.csv", b"who,who\n1,2\n", "more than one column 'who'"),
        ("e.csv", b"who,what,did\n1,a,view\n", "no column 'at' to fill occurred_at"),
        ("e.jsonl", b'{"who": 1}\n', "no column 'what' to fill item_id"),
        (
            "e.csv",
            b'who,what,did,at\n1,a,view,1\n1,"' + b"x" * 200_000,
            "row 2 .*quote",
        ),
        ("e.csv", b"who,what,did,at\n" + b"x" * LINE_CHARACTERS, "line 2 is longer"),
    ],
)
def test_files_that_are_refused(
    write: Callable[..., Path],
    run: Callable[..., ImportReport],
    settings: Settings,
    clock: FixedClock,
    name: str,
    content: bytes,
    sentence: str,
) -> None:
    with pytest.raises(ImportFailed, match=sentence):
        run(write(name, content))
    assert nothing_was_sent(settings, clock)


def test_a_missing_file(run: Callable[..., ImportReport], tmp_path: Path) -> None:
    with pytest.raises(ImportFailed, match=r"no file .*nowhere\.csv"):
        run(tmp_path / "nowhere.csv")


def test_a_header_without_rows(
    write: Callable[..., Path], run: Callable[..., ImportReport]
) -> None:
    report = run(write("e.csv", "who,what,did,at\n"))
    assert report.sent[EVENTS] == 0 and report.first is None


# --- the command -------------------------------------------------------------


@pytest.fixture
def feedloop_import(settings: Settings) -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(
            command, list(arguments), env=to_environment(settings)
        )

    return run


def test_what_the_dry_run_prints_can_be_run(
    write: Callable[..., Path],
    feedloop_import: Callable[..., Result],
    settings: Settings,
    clock: FixedClock,
) -> None:
    path = write("r.csv", "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n")
    dry = feedloop_import(str(path), "--dry-run", "--json")
    assert dry.exit_code == 0, dry.output
    answer = msgspec.json.decode(dry.stdout)
    assert answer["map"]["event_type"] == "'rating'"
    assert nothing_was_sent(settings, clock)
    shown = feedloop_import(str(path), "--dry-run")
    assert answer["command"] in shown.stdout

    maps = ",".join(f"{field}={one}" for field, one in answer["map"].items())
    done = feedloop_import(str(path), "--map", maps, "--json")
    assert done.exit_code == 0, done.output
    assert msgspec.json.decode(done.stdout) == {
        "name": "r.csv",
        "sent": {"events": 1, "items": 0, "users": 0},
        "first": "2009-12-14T02:52:24Z",
        "last": "2009-12-14T02:52:24Z",
        "stored": {"events": 1, "items": 0, "users": 0},
        "dead_letters": 0,
        "duplicates": 0,
    }


def test_the_last_lines_for_a_person(
    write: Callable[..., Path], feedloop_import: Callable[..., Result]
) -> None:
    done = feedloop_import(str(write("e.csv", BAD)), "--map", EVENT_MAP)
    assert done.stdout.splitlines() == [
        "e.csv: 7 events read.",
        "They span 1989-12-31 00:00:00 to 2026-01-05 12:00:04 (UTC).",
        "Stored: 1 events; 0 were there already; 6 became dead letters.",
        "`feedloop dead-letters` lists them with their reasons.",
        "Next: dbt build",
    ]


def test_a_name_that_is_neither(feedloop_import: Callable[..., Result]) -> None:
    error = feedloop_import("nothing").exception
    assert isinstance(error, ImportFailed)
    assert "datasets are movielens-100k, globo, retailrocket" in str(error)


def test_a_file_without_a_map(
    write: Callable[..., Path], feedloop_import: Callable[..., Result]
) -> None:
    path = write("e.csv", "who,user,item,event,at\n1,2,3,view,1767614400\n")
    error = feedloop_import(str(path)).exception
    assert isinstance(error, ImportFailed)
    assert str(error).endswith(
        "--map user_id=user,item_id=item,event_type=event,occurred_at=at"
    )


@pytest.mark.parametrize(
    "arguments",
    [["globo", "--dry-run"], ["globo", "--map", "a=b"], ["x.csv", "--until", "soon"]],
)
def test_misuse(feedloop_import: Callable[..., Result], arguments: list[str]) -> None:
    assert feedloop_import(*arguments).exit_code == 2
