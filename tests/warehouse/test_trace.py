"""One event, followed through the loop."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from feedloop.cli.build import nightly
from feedloop.cli.evaluate import slot_value
from feedloop.cli.trace import trace
from feedloop.contracts import builds
from feedloop.contracts.lists import REASONS, RequestSigner
from feedloop.contracts.log import EVENTS, Message
from feedloop.errors import FeedloopError
from tests.conftest import VARIABLES, Project
from tests.support import checkerboard
from tests.support.checkerboard import END

RUN_RESULTS = "target/run_results.json"


def test_from_the_offset_to_the_outcome(
    make_checkerboard: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = make_checkerboard(tmp_path)
    settings = project.settings
    first = nightly(settings, project.clock, END, variables=VARIABLES)
    folder, _ = builds.read_part(settings.builds_dir, first.build_id, builds.LISTS)
    ((rec_id, item_id, drawn, pool_size),) = project.query(
        "select rec_id, item_ids[1], item_ids[8], pool_sizes[8] "
        "from rec_lists where user_id = 'u000'"
    )
    assert pool_size > 1
    assert (folder / builds.LISTS_FILE).exists()
    # a night tests its data; what tests the SQL is left to CI
    ran = msgspec.json.decode((settings.home_dir / RUN_RESULTS).read_bytes())
    kinds = {row["unique_id"].partition(".")[0] for row in ran["results"]}
    assert "test" in kinds
    assert "unit_test" not in kinds

    request_id = RequestSigner(settings.signing_key).sign(rec_id, "u000")
    shown = END + timedelta(hours=1)
    rows = [
        checkerboard.event("seen", 0, int(item_id[1:]), shown, "impression"),
        checkerboard.event("clicked", 0, int(item_id[1:]), shown, "click"),
        checkerboard.event("forged", 0, int(item_id[1:]), shown, "click"),
        checkerboard.event("drawn", 0, int(drawn[1:]), shown, "impression"),
    ]
    for row, request in zip(
        rows, (request_id, request_id, f"{rec_id}.00.00", request_id), strict=True
    ):
        row["context"] = {"request_id": request, "page_position": 1}
    checkerboard.send_events(project.log, settings, rows)
    broken = b'{"event_id": "broken-one"'
    project.log.append(settings.topic(EVENTS), [Message("u", broken, END)])
    second = nightly(
        settings, project.clock, END + timedelta(days=1), variables=VARIABLES
    )
    assert second.dead_letters == 1

    found = trace(settings, "clicked")
    assert found["log"]["topic"] == "t1.events"
    assert found["log"]["load_seq"] == 2
    assert found["answers"]["position"] == 1
    assert found["answers"]["build_id"] == first.build_id
    assert len(found["answers"]["reasons"]) == REASONS
    assert [outcome["event_id"] for outcome in found["outcomes"]] == ["clicked"]
    changed = {change["feature"]: change for change in found["features"]}
    assert changed["item_impressions_30d"]["after"] == 1
    assert changed["item_impressions_30d"]["build"] == second.build_id
    assert found["next_list"]["build_id"] == second.build_id
    assert item_id not in found["next_list"]["first_items"]

    # a forged answer is an organic event
    assert trace(settings, "forged")["answers"] is None
    assert trace(settings, "broken-one")["dead_letter"]["stream"] == "events"
    with pytest.raises(FeedloopError, match="feedloop load"):
        trace(settings, "never-sent")

    impressions = project.query(
        "select item_id, list_position, is_positive from fct_impressions "
        "order by list_position"
    )
    assert impressions == [(item_id, 1, True), (drawn, 8, False)]
    draws = project.query("select item_id, pool_size, reward from fct_draws")
    assert draws == [(drawn, pool_size, 0)]
    # nobody has been shown anything, so that one item is worth the other
    (expected,) = project.query(
        "select predicted, expected_as_drawn, expected_evenly from fct_draws"
    )
    assert expected == pytest.approx([expected[0]] * 3)
    assert 0 < expected[0] < 1
    # one draw tells nothing, and the answer says so
    value = slot_value(settings)
    assert [row["policy"] for row in value] == ["as drawn", "evenly"]
    assert [row["ips"] for row in value] == [None, None]
    assert "collect more impressions" in value[0]["refusal"]
