"""Maps as they are written, refused and proposed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from feedloop.contracts.log import EVENTS, ITEMS
from feedloop.errors import ImportFailed
from loaders.mapping import TARGETS, Column, Constant, parse_map
from loaders.proposal import Proposal, propose
from loaders.row_sources import open_rows

TYPES = ["view", "click", "rating", "save", "purchase"]


def test_a_map_reads_back_as_it_was_written() -> None:
    text = (
        "user_id=who,item_id=\"the item, or so\",event_type='big, bad',"
        "occurred_at=at=noon,context.session_id=s"
    )
    field_map = parse_map([text], TARGETS[EVENTS])
    assert field_map.sources == {
        "user_id": Column("who"),
        "item_id": Column("the item, or so"),
        "event_type": Constant("big, bad"),
        "occurred_at": Column("at=noon"),
        "context.session_id": Column("s"),
    }
    assert str(field_map) == text
    parts = text.split(",", 1)
    assert parse_map(parts, TARGETS[EVENTS]) == field_map


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("user_id", "can't be read from 'user_id' on"),
        ("user_id=a,,item_id=b", "can't be read from ',item_id=b' on"),
        ("user_id=a,user_id=b", "fills user_id twice"),
        ("visitor=a", "no field 'visitor' to map to; they have event_id"),
        ("context.=a", r"no field 'context\.'"),
        ("context=a,context.device=b", "context as a whole and context.device too"),
        ("user_id=a", "Nothing is mapped to item_id, event_type, occurred_at"),
    ],
)
def test_maps_that_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(ImportFailed, match=sentence):
        parse_map([text], TARGETS[EVENTS])


def proposed(path: Path, into: str = EVENTS) -> Proposal:
    return propose(open_rows(path), TARGETS[into], TYPES)


def test_a_proposal_from_names(write: Callable[..., Path]) -> None:
    path = write(
        "e.csv",
        "timestamp,visitorid,event,itemid,transactionid\n1433221332117,25,view,35,\n",
    )
    proposal = proposed(path)
    assert {field: str(one) for field, one in proposal.sources.items()} == {
        "user_id": "visitorid",
        "item_id": "itemid",
        "event_type": "event",
        "occurred_at": "timestamp",
    }
    assert not proposal.missing
    assert proposal.unused == ["transactionid"]


def test_a_proposal_looks_at_values_too(write: Callable[..., Path]) -> None:
    path = write(
        "e.csv",
        "user_id,session_id,session_start,click_article_id,click_timestamp,event\n"
        "1,77,1506826329000,5,1506826800026,open\n"
        "2,78,1506826329001,6,not a time,view\n"
        "3,79,1506826329002,7,1506826800028,view\n",
    )
    proposal = proposed(path)
    assert {field: str(one) for field, one in proposal.sources.items()} == {
        "user_id": "user_id",
        "item_id": "click_article_id",
        "event_type": "event",
        "occurred_at": "click_timestamp",
        "context.session_id": "session_id",
    }
    assert any("open" in remark for remark in proposal.remarks)

    odd = write("odd.csv", "user,thing,event,moment\n1,a,view,2026-01-05\n")
    found = proposed(odd)
    assert found.sources["occurred_at"] == Column("moment")
    assert found.missing == ["item_id"]
    assert found.command("odd.csv") == (
        "feedloop import odd.csv --map "
        "user_id=user,event_type=event,occurred_at=moment,item_id=COLUMN"
    )
    assert any("item_id" in remark for remark in found.remarks)


def test_a_proposal_for_ratings(write: Callable[..., Path]) -> None:
    path = write("r.csv", "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n")
    proposal = proposed(path)
    assert proposal.sources["event_type"] == Constant("rating")
    assert proposal.sources["event_value"] == Column("rating")
    assert proposal.command("my $1.csv") == (
        "feedloop import 'my $1.csv' --map \"user_id=userId,item_id=movieId,"
        "occurred_at=timestamp,event_value=rating,event_type='rating'\""
    )
    assert not proposal.missing and not proposal.unused


def test_a_proposal_for_items(write: Callable[..., Path]) -> None:
    path = write("m.csv", "id,title,genres,date\n31,Heat,Crime|Drama,1995-12-15\n")
    proposal = proposed(path, ITEMS)
    assert {field: str(one) for field, one in proposal.sources.items()} == {
        "item_id": "id",
        "published_at": "date",
        "title": "title",
        "tags": "genres",
    }
    assert proposal.missing == ["category"]
    assert "--into items" in proposal.command("m.csv")
