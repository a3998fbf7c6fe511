"""The parts of ``feedloop evaluate`` that ask the warehouse."""

import pyarrow as pa
import pytest

from feedloop.cli.evaluate import what_sources_bring
from feedloop.contracts.builds import newest_build
from tests.conftest import ITEMS, PEOPLE, Project
from tests.support.checkerboard import left_out


def test_the_candidates_are_those_that_the_lists_were_made_from(
    built_project: Project,
) -> None:
    settings = built_project.settings
    build_id = newest_build(settings.builds_dir)
    assert build_id is not None
    wanted = [
        (f"u{person:03}", f"i{number:03}")
        for person in range(PEOPLE)
        for number in range(person % 2, ITEMS, 2)
        if left_out(person, number)
    ]
    user, item = map(list, zip(*wanted, strict=True))
    truth = pa.table({"user_id": [*user, "nobody"], "item_id": [*item, "i000"]})
    candidates, found = what_sources_bring(settings, build_id, truth)
    assert candidates == 300
    # of fewer items than that, everyone who has a list is offered all
    assert found["from_any"].users == PEOPLE + 1
    assert found["from_any"].mean == pytest.approx(PEOPLE / (PEOPLE + 1))
    assert found["from_item_item"].mean > 0.9
    assert found["only_als"].mean == 0
