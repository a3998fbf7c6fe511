"""The same project on Spark and Iceberg gives the rows that DuckDB gives.

Two nights are built on both, from one catalog. The tests at the end change what
was built, each something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from feedloop.contracts.builds import newest_build
from feedloop.contracts.log import EVENTS, Message
from feedloop.errors import StepFailed
from loaders.iceberg import open_catalog
from loaders.publish import append_build
from recommender.embeddings import AlsParams, fold_in_users, train_item_factors
from recommender.stages import of_purpose
from tests.conftest import ITEMS, PEOPLE, VARIABLES, Project
from tests.support import checkerboard, parity
from tests.support.checkerboard import END, START
from tests.support.on_spark import Spark

SECOND = END + timedelta(days=1)
NEWCOMERS = 4
WITHOUT_UNIT_TESTS = ["--exclude-resource-type", "unit_test"]
WITHOUT_TESTS = [*WITHOUT_UNIT_TESTS, "--exclude-resource-type", "test"]


@dataclass
class Both:
    """A project with a warehouse on DuckDB and one on Spark."""

    project: Project
    spark: Spark
    has_rows: set[str] = field(default_factory=set)
    """Relations that had rows on a night on which they were compared."""

    def dbt(self, *arguments: str, at: datetime, more: list[str]) -> None:
        """The same on both; ``more`` on Spark only."""
        variables = self.variables(at)
        self.project.dbt(*arguments, *WITHOUT_TESTS, **variables)
        self.spark.dbt(*arguments, *more, **variables)

    def variables(self, at: datetime) -> dict[str, Any]:
        return VARIABLES | {"min_logged_impressions": 1, "as_of": str(at)}

    def relations(self) -> list[str]:
        return parity.relations(self.project.settings.home_dir / "target")

    def differences(self, names: list[str]) -> dict[str, list[str]]:
        """Of those of the relations in which there are any."""
        expected, found = self.project.relations(names), self.on_spark(names)
        self.has_rows |= {name for name in names if len(expected[name])}
        unequal = {
            name: list(parity.differences(expected[name], found[name]))
            for name in names
        }
        return {name: told for name, told in unequal.items() if told}

    def on_spark(self, names: list[str]) -> dict[str, pa.Table]:
        """Tables as pyiceberg finds them in the catalog that it shares with
        Spark, views as Spark does."""
        catalog = open_catalog(self.project.settings)
        schema = self.project.settings.namespace
        tables = {name for _, name in catalog.list_tables(schema)}
        views = [name for name in names if name not in tables]
        found: dict[str, pa.Table] = self.spark.call(read_views, schema, views)
        for name in tables.intersection(names):
            found[name] = catalog.load_table((schema, name)).scan().to_arrow()
        return found


def read_views(session: Any, schema: str, names: list[str]) -> dict[str, pa.Table]:
    return {name: session.table(f"{schema}.{name}").toArrow() for name in names}


def run_sql(session: Any, statements: list[str]) -> None:
    for statement in statements:
        session.sql(statement)


def first_day(project: Project) -> None:
    """Beside the checkerboard: people without a history, items that nobody has
    touched, and discoveries shortly before the night's end, which the ranker
    learns from while there is no log of lists."""
    today = {"created_at": (END - timedelta(hours=1)).isoformat()}
    people = [checkerboard.user(PEOPLE + number) | today for number in range(NEWCOMERS)]
    people[0] |= {"declared_preferences": [checkerboard.CATEGORIES[0]]}
    items = [checkerboard.item(ITEMS + number) for number in range(3)]
    items[0] |= {"title": "Ein Ärgernis: 'ça' 🎈", "tags": None}
    items[1] |= {"is_active": False}
    checkerboard.send_catalogue(project.log, project.settings, items, people)
    found = [
        checkerboard.event(
            f"discovery-{person}",
            person,
            next(
                number
                for number in range(person % 2, ITEMS, 2)
                if checkerboard.left_out(person, number)
            ),
            END - timedelta(minutes=1 + person),
        )
        for person in range(PEOPLE)
    ]
    checkerboard.send_events(project.log, project.settings, found)
    project.load()


def second_day(project: Project) -> None:
    """The lists are shown and answered; a phone was offline, another client is
    broken, an item changes and one goes."""
    settings = project.settings
    build_id = newest_build(settings.builds_dir)
    assert build_id is not None
    append_build(settings, settings.builds_dir, build_id)
    lists = project.query(
        "select user_id, rec_id, item_ids from rec_lists where user_id != '~cold'"
    )
    checkerboard.send_events(
        project.log, settings, list(checkerboard.answers(settings, lists))
    )
    session = {"session_id": "s1", "dwell_time_ms": 1700, "device": "phone"}
    late = checkerboard.event("late", 0, 0, START + timedelta(days=3, hours=1))
    checkerboard.send_events(project.log, settings, [late | {"context": session}])
    project.log.append(settings.topic(EVENTS), [Message("u000", b"{", END)])
    changed = [
        checkerboard.item(1) | {"category": checkerboard.CATEGORIES[0]},
        checkerboard.item(2, active=False),
    ]
    checkerboard.send_catalogue(project.log, settings, changed, [])
    project.load()


@pytest.fixture(scope="module")
def both(
    make_checkerboard: Callable[[Any], Project],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Both]:
    project = make_checkerboard(tmp_path_factory.mktemp("spark"))
    spark = Spark(project.settings)
    try:
        yield Both(project, spark)
    finally:
        spark.stop()


def test_spark_gives_the_rows_that_duckdb_gives(both: Both) -> None:
    """All of them: what feeds the lists, the lists, and why each item is in
    them. Equal factors and rankers are an equal ``build_id``: both make their
    lists from one folder."""
    first_day(both.project)
    both.dbt("build", at=END, more=WITHOUT_TESTS)
    assert both.differences(both.relations()) == {}
    second_day(both.project)
    both.dbt("build", at=SECOND, more=WITHOUT_UNIT_TESTS)
    assert both.differences(both.relations()) == {}
    assert both.has_rows == set(both.relations())


def test_a_day_that_is_empty_by_now_loses_its_rows(both: Both) -> None:
    tiles = [name for name in both.relations() if name.startswith("tile_")]
    before = both.on_spark(tiles)
    schema = both.project.settings.namespace
    day = f"date '{START + timedelta(days=5):%Y-%m-%d}'"
    emptied = [
        f"delete from {schema}.stg_events where occurred_on = {day}",
        f"update {schema}.int_days_to_rebuild set changed_seq = 1000000 "
        f"where day = {day}",
    ]
    for statement in emptied:
        both.project.query(statement)
    both.spark.call(run_sql, emptied)

    both.dbt("build", "--select", *tiles, at=SECOND, more=WITHOUT_TESTS)
    assert both.differences(tiles) == {}
    after = both.on_spark(tiles)
    for name in tiles:
        gone = pc.equal(before[name]["day"], START.date() + timedelta(days=5))
        assert pc.any(gone).as_py()
        kept = before[name].filter(pc.invert(gone))
        assert list(parity.differences(kept, after[name])) == []


def train_by_mllib(session: Any, schema: str, params: AlsParams, only: str) -> pa.Table:
    from dbt.adapters.sparkpy.als import train_item_factors

    return train_item_factors(
        session.table(f"{schema}.emb_interactions").filter(only), params
    )


def recall(interactions: pa.Table, factors: pa.Table, params: AlsParams) -> float:
    """Of the items of people's taste that they have not touched, the share that
    leads the untouched ones by their inner products."""
    people = fold_in_users(interactions, factors, params)
    users, items = people["user_id"].to_pylist(), factors["item_id"].to_pylist()
    user_vectors, item_vectors = (
        np.array(table["vector"].to_pylist()) for table in (people, factors)
    )
    scores = user_vectors @ item_vectors.T
    pairs = zip(
        interactions["user_id"].to_pylist(),
        interactions["item_id"].to_pylist(),
        strict=True,
    )
    for user, item in pairs:
        scores[users.index(user), items.index(item)] = -np.inf
    found, wanted = 0, 0
    for user, row in zip(users, scores, strict=True):
        liked = np.array([int(item[1:]) % 2 == int(user[1:]) % 2 for item in items])
        untouched = int((liked & np.isfinite(row)).sum())
        found += int(liked[np.argsort(-row)[:untouched]].sum())
        wanted += untouched
    return found / wanted


def test_mllib_recalls_what_implicit_does(both: Both) -> None:
    params = AlsParams(factors=8, seed=1)
    schema, serving = both.project.settings.namespace, "purpose = 'serving'"
    (interactions,) = both.on_spark(["emb_interactions"]).values()
    interactions = of_purpose(interactions, "serving")

    ours = train_item_factors(interactions, params)
    theirs = both.spark.call(train_by_mllib, schema, params, serving)
    assert theirs["item_id"].equals(ours["item_id"])
    least = recall(interactions, ours, params) - 0.02
    assert recall(interactions, theirs, params) >= least > 0.9
    lengths = [
        np.linalg.norm(np.array(factors["vector"].to_pylist()))
        for factors in (ours, theirs)
    ]
    assert lengths[1] == pytest.approx(lengths[0], rel=0.2)
    again = both.spark.call(train_by_mllib, schema, params, serving)
    assert again.equals(theirs)
    assert len(both.spark.call(train_by_mllib, schema, params, "false")) == 0


def test_lists_are_made_from_mllibs_factors(both: Both) -> None:
    of_implicit = both.on_spark(["rec_lists"])["rec_lists"]
    both.spark.dbt(
        *("run", "--select", "emb_item_factors+,+rec_lists"),
        **both.variables(SECOND) | {"als_engine": "mllib"},
    )
    made = both.on_spark(["emb_item_factors", "rec_lists"])
    for recipe in set(made["emb_item_factors"]["recipe"].to_pylist()):
        assert recipe.startswith("mllib ")
    of_mllib = made["rec_lists"]
    assert set(of_mllib["user_id"].to_pylist()) == set(
        of_implicit["user_id"].to_pylist()
    )
    builds = set(of_mllib["build_id"].to_pylist())
    assert len(builds) == 1
    assert builds.isdisjoint(of_implicit["build_id"].to_pylist())


def test_mllib_is_refused_where_there_is_no_spark(both: Both) -> None:
    with pytest.raises(StepFailed, match="als_engine is mllib, which runs on Spark"):
        both.project.dbt(
            *("run", "--select", "emb_item_factors"),
            **both.variables(SECOND) | {"als_engine": "mllib"},
        )
