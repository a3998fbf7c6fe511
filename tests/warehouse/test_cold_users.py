"""Lists for people of whom there is no event yet."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from tests.conftest import ITEMS, PEOPLE, Project
from tests.support import checkerboard
from tests.support.checkerboard import END

FIRST = 4
"""What the diversity rule allows of one category in a block."""


def test_a_newcomer_gets_what_their_country_likes(
    make_checkerboard: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = make_checkerboard(tmp_path)
    newcomers = [
        checkerboard.user(number)
        | {"created_at": (END - timedelta(hours=1)).isoformat()}
        for number in (PEOPLE, PEOPLE + 1)
    ]
    # whose first days are over, and who never came
    absent = checkerboard.user(PEOPLE + 2)
    checkerboard.send_catalogue(project.log, project.settings, [], [*newcomers, absent])
    project.load()
    flags = ("--exclude-resource-type", "unit_test")
    project.dbt("build", *flags, as_of=END.isoformat(sep=" "))

    lists = dict(
        project.query(
            "select user_id, item_ids from rec_lists where surface = 'homepage'"
        )
    )
    assert len(lists) == PEOPLE + len(newcomers) + 1
    for person in (PEOPLE, PEOPLE + 1):
        first = lists[f"u{person:03}"][:FIRST]
        assert {int(item[1:]) % 2 for item in first} == {person % 2}
    assert len(lists[f"u{PEOPLE:03}"]) == ITEMS
    little = "select user_id from feat_users where user_is_little_known = 1"
    assert {user for (user,) in project.query(little)} == {
        f"u{PEOPLE:03}",
        f"u{PEOPLE + 1:03}",
    }
