"""Two nights with impressions in between: what the ranker learns from.

The tests at the end break the shared project on purpose, each in its own way.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from benchmarks.support.known_join import compiled
from feedloop.cli.build import nightly
from feedloop.errors import StepFailed
from tests.conftest import PEOPLE, VARIABLES, Project
from tests.support import checkerboard
from tests.support.checkerboard import END, SHOWN

SECOND = END + timedelta(days=1)
LEARNS_FROM_THE_LOG = VARIABLES | {"min_logged_impressions": 1}


def answers(project: Project) -> list[dict[str, Any]]:
    lists = project.query(
        "select user_id, rec_id, item_ids from rec_lists where surface = 'homepage' "
        "and user_id != '~cold' order by user_id"
    )
    return list(checkerboard.answers(project.settings, lists))


@pytest.fixture(scope="module")
def two_nights(
    make_checkerboard: Callable[[Path], Project],
    tmp_path_factory: pytest.TempPathFactory,
) -> Project:
    project = make_checkerboard(tmp_path_factory.mktemp("nights"))
    nightly(project.settings, project.clock, END, variables=VARIABLES)
    checkerboard.send_events(project.log, project.settings, answers(project))
    nightly(project.settings, project.clock, SECOND, variables=LEARNS_FROM_THE_LOG)
    return project


def rebuild(project: Project, *more: str) -> None:
    models = (
        "stg_events fct_impressions train_known_features train_logged_features "
        "train_examples mon_feature_skew"
    )
    project.dbt(
        *("build", "--exclude-resource-type", "unit_test", "--select", models, *more),
        as_of=SECOND.isoformat(sep=" "),
        min_logged_impressions=1,
    )


def examples(project: Project) -> list[tuple[Any, ...]]:
    return project.query(
        "select group_id, item_id, position, label, feature_names, feature_values, "
        "available_at, shown_at from train_examples order by group_id, item_id"
    )


def test_every_impression_teaches_what_it_was_scored_with(two_nights: Project) -> None:
    found = examples(two_nights)
    assert len(found) == PEOPLE * SHOWN
    assert sum(label for *_, label, _, _, _, _ in found) == PEOPLE
    of_item = {
        (build_id, item): values
        for build_id, item, values in two_nights.query(
            "select build_id, item_id, item_values from stg_feature_log_items"
        )
    }
    logged = {}
    for rec_id, build_id, items, names, of_user, own in two_nights.query(
        "select rec_id, build_id, item_ids, feature_names, user_values, "
        "candidate_values from stg_feature_log inner join stg_lists "
        "using (rec_id, build_id)"
    ):
        width = len(own) // len(items)
        for at, item in enumerate(items):
            values = own[at * width : (at + 1) * width]
            logged[rec_id, item] = names, of_user + of_item[build_id, item] + values
    for group_id, item_id, _, _, names, values, available_at, shown_at in found:
        assert (names, values) == logged[group_id.partition("/")[0], item_id]
        assert available_at == END < shown_at


def test_what_was_logged_is_what_the_history_says(two_nights: Project) -> None:
    report = two_nights.query(
        "select feature_name, pairs, equal_share, max_difference from mon_feature_skew"
    )
    assert {name for name, *_ in report} >= {"user_events_7d", "item_ctr_30d"}
    assert {tuple(row) for _, *row in report} == {(PEOPLE * SHOWN, 1.0, 0.0)}


def test_few_rows_are_not_compared_with_every_version(two_nights: Project) -> None:
    query = """
        select base.user_id, known.value from base
        {{ join_known(
            'known', 'user_id', 'base', 'base.listed_at', only='base.is_personal'
        ) }}
        order by all
    """
    code = compiled(two_nights.settings, query)
    with duckdb.connect() as connection:
        connection.execute("""
            create table known as select
                user_id,
                user_id * 10 + version as value,
                timestamp '2026-01-01' + version * interval 1 day as available_at,
                available_at + interval 1 day as superseded_at
            from range(5000) as users (user_id), range(5) as versions (version)
        """)
        connection.execute("""
            create table base as select
                user_id,
                user_id % 2 = 0 as is_personal,
                timestamp '2026-01-03 12:00:00' as listed_at
            from range(4) as users (user_id)
        """)
        plan = connection.execute(f"explain {code}").fetchall()[0][1]
        rows = connection.execute(code).fetchall()
    assert "HASH_JOIN" in plan
    assert "BLOCKWISE_NL" not in plan
    assert rows == [(0, 2), (1, None), (2, 22), (3, None)]


def test_the_order_of_arrival_changes_nothing(
    make_checkerboard: Callable[[Path], Project], two_nights: Project, tmp_path: Path
) -> None:
    again = make_checkerboard(tmp_path)
    nightly(again.settings, again.clock, END, variables=VARIABLES)
    rows = sorted(answers(again), key=lambda row: str(row["event_id"])[::-1])
    # in three loads, the clicks long before what they answer
    rows.sort(key=lambda row: bool(row["event_type"] == "impression"))
    for part in (rows[:17], rows[17:200], rows[200:]):
        checkerboard.send_events(again.log, again.settings, part)
        again.load()
    nightly(again.settings, again.clock, SECOND, variables=LEARNS_FROM_THE_LOG)
    assert examples(again) == examples(two_nights)


def test_a_planted_skew_stops_the_build(two_nights: Project) -> None:
    with duckdb.connect(str(two_nights.settings.duckdb_path)) as connection:
        connection.execute(
            "update t1.snap_item_features set item_ctr_30d = item_ctr_30d + 0.001"
        )
    with pytest.raises(StepFailed, match="assert_logged_features_equal_the_history"):
        rebuild(two_nights)
    skewed = dict(
        two_nights.query("select feature_name, equal_share from mon_feature_skew")
    )
    assert skewed.pop("item_ctr_30d") == 0
    assert set(skewed.values()) == {1.0}


def test_without_a_log_the_history_teaches(two_nights: Project) -> None:
    with duckdb.connect(str(two_nights.settings.duckdb_path)) as connection:
        connection.execute("delete from t1.train_logged_features")
    two_nights.dbt(
        *("build", "--exclude-resource-type", "unit_test"),
        *("--select", "train_examples rank_ranker"),
        as_of=SECOND.isoformat(sep=" "),
        min_logged_impressions=1,
    )
    found = examples(two_nights)
    assert len(found) == PEOPLE * SHOWN
    for *_, names, values, available_at, shown_at in found:
        assert "item_ctr_30d" in names
        assert "als_cosine" not in names
        assert len(names) == len(values)
        assert isinstance(shown_at, datetime)
        assert available_at < shown_at
    ((learned,),) = two_nights.query("select count(*) from rank_ranker")
    assert learned == 1
