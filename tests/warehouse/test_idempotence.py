"""However events come and builds end, the warehouse holds the same bits.

Events of many days come in pieces and out of order, a list after it was answered;
builds are repeated and killed. What is there in the end is what one build from
scratch makes, partition by partition.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedloop.contracts import builds
from feedloop.contracts.lists import (
    FEATURE_LOG_ITEMS_SCHEMA,
    FEATURE_LOG_SCHEMA,
    LISTS_SCHEMA,
    RequestSigner,
    rec_id,
)
from feedloop.settings import to_environment
from loaders.publish import append_build
from tests.conftest import ITEMS, PEOPLE, VARIABLES, Project
from tests.support import checkerboard
from tests.support.checkerboard import END, START

SECOND = END + timedelta(days=1)
FIRST, LATE = (f"{model}@{END:%Y%m%dT%H%M%S%f}Z" for model in ("m", "late"))
"""Two builds: the lists of the second come when they were answered."""
LENGTH = 8

PARTITIONS = {
    "stg_events": "occurred_on",
    "tile_user_days": "day",
    "tile_item_days": "day",
    "tile_user_category_days": "day",
    "tile_user_item_days": "day",
    "tile_item_pair_days": "day",
    "feat_users": "as_of",
    "feat_items": "as_of",
    "feat_item_neighbours": "as_of",
    "fct_impressions": "cast(shown_at as date)",
    "train_known_features": "cast(listed_at as date)",
    "train_logged_features": "cast(available_at as date)",
}
BOOKKEEPING = "changed_seq", "load_seq", "log_partition", "log_offset"
"""Columns that say how a row came, not what it says."""

INCREMENTAL = "config.materialized:incremental stg_items int_items stg_lists path:seeds"
EVERYTHING = (
    "path:seeds path:models/staging path:models/features path:python_models/features "
    "path:snapshots fct_impressions train_known_features train_logged_features"
)
KNOWN = VARIABLES | {"min_logged_impressions": 1}


def build(project: Project, select: str, *more: str, at: datetime = SECOND) -> None:
    project.dbt(*words(select), *more, as_of=at.isoformat(sep=" "), **KNOWN)


def words(select: str) -> list[str]:
    kinds = ("test", "unit_test")
    flags = [word for kind in kinds for word in ("--exclude-resource-type", kind)]
    return ["build", *flags, "--select", select]


def killed_in(project: Project, select: str, model: str) -> None:
    """A build in a process of its own, killed once ``model`` has begun."""
    # as Project.dbt orders them, so that dbt needn't parse everything again
    variables = VARIABLES | {"as_of": SECOND.isoformat(sep=" ")} | KNOWN
    home = project.settings.home_dir
    command = [
        str(Path(sys.executable).with_name("dbt")),
        *words(select),
        *("--vars", json.dumps(variables), "--no-use-colors"),
        *("--target-path", str(home / "target"), "--log-path", str(home / "logs")),
    ]
    with subprocess.Popen(
        command,
        cwd=project.settings.project_dir,
        env=os.environ | to_environment(project.settings),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if f"START sql incremental model t1.{model} " in line:
                process.kill()
                break
    assert process.returncode < 0, "".join(said)


def content(project: Project) -> dict[tuple[str, str], tuple[int, str]]:
    """Rows and hash of every partition of every table that is there."""
    found = {}
    tables = {name for (name, *_) in project.query("show tables")}
    for table in tables.intersection(PARTITIONS):
        names = {name for (name, *_) in project.query(f"describe {table}")}
        told = ", ".join(sorted(names.difference(BOOKKEEPING)))
        for key, rows, digest in project.query(
            f"select cast(key as varchar), count(*), md5(string_agg(told, chr(10) "
            f"order by told)) from (select {PARTITIONS[table]} as key, "
            f"cast(row({told}) as varchar) as told from {table}) group by key"
        ):
            found[table, key] = (rows, digest)
    return found


def listed(person: int) -> list[str]:
    return [f"i{(person * 7 + 3 * place) % ITEMS:03}" for place in range(LENGTH)]


def build_of(person: int) -> str:
    return (FIRST, LATE)[person % 2]


def publish(project: Project, build_id: str) -> None:
    """A build's lists and their log, as the kernel and dbt would leave them."""
    lists, log = [], []
    for person in range(PEOPLE):
        if build_of(person) != build_id:
            continue
        name = rec_id(f"u{person:03}", "homepage", build_id)
        both = {"rec_id": name, "build_id": build_id, "generated_at": END}
        row = {
            "user_id": f"u{person:03}",
            "surface": "homepage",
            "item_ids": listed(person),
            "propensities": [1.0] * LENGTH,
            "model_version": "m",
            "expires_at": SECOND,
        }
        lists.append(both | row)
        scored = {
            "feature_names": ["of_user", "of_item", "of_both"],
            "user_values": [float(person)],
            "candidate_values": [float(person * place) for place in range(LENGTH)],
        }
        log.append(both | scored)
    of_build = {"build_id": build_id, "generated_at": END}
    items = [
        of_build | {"item_id": f"i{number:03}", "item_values": [number / 7]}
        for number in range(ITEMS)
    ]
    manifest = builds.Manifest(
        format=builds.FORMAT,
        build_id=build_id,
        model_version=build_id.partition("@")[0],
        as_of=END,
        surfaces=["homepage"],
        feature_names=["of_user", "of_item", "of_both"],
        categories=[],
        counts={},
    )
    folder = project.settings.builds_dir
    with builds.write_part(folder, builds.LISTS, manifest) as part:
        for name, rows, schema in (
            (builds.LISTS_FILE, lists, LISTS_SCHEMA),
            (builds.FEATURE_LOG_FILE, log, FEATURE_LOG_SCHEMA),
            (builds.FEATURE_LOG_ITEMS_FILE, items, FEATURE_LOG_ITEMS_SCHEMA),
        ):
            pq.write_table(pa.Table.from_pylist(rows, schema), part / name)
    append_build(project.settings, folder, build_id)


def events(project: Project, chance: random.Random) -> Iterator[dict[str, Any]]:
    """Impressions, repeated ones, clicks at the windows' ends, and events of
    days long built that answer no list."""
    signer = RequestSigner(project.settings.signing_key)
    for person in range(PEOPLE):
        name = rec_id(f"u{person:03}", "homepage", build_of(person))
        for place, item in enumerate(listed(person), start=1):
            shown = END + timedelta(minutes=chance.randrange(600))
            for number, (kind, hours) in enumerate(
                [("impression", 0), ("impression", 2), ("click", 23), ("click", 26)]
            ):
                if number and chance.random() < 0.6:
                    continue
                row = checkerboard.event(
                    f"{person}-{place}-{number}",
                    person,
                    int(item[1:]),
                    shown + timedelta(hours=hours),
                    kind=kind,
                )
                request = signer.sign(name, row["user_id"])
                yield row | {"context": {"request_id": request, "page_position": place}}
        late = START + timedelta(minutes=chance.randrange(14 * 1440))
        yield checkerboard.event(f"late-{person}", person, person % ITEMS, late)


def comes_in_pieces(
    project: Project, seed: int, select: str, kills: list[str | None]
) -> None:
    """For each of ``kills`` load a piece of the events and kill a build in that
    model, or let it end; then load the rest and build."""
    publish(project, FIRST)
    chance = random.Random(seed)
    rows = list(events(project, chance))
    chance.shuffle(rows)
    pieces = len(kills) + 1
    cuts = [len(rows) * number // pieces for number in range(1, pieces)]
    for start, stop, killed in zip(
        [0, *cuts], [*cuts, len(rows)], [*kills, None], strict=True
    ):
        checkerboard.send_events(project.log, project.settings, rows[start:stop])
        project.load()
        if stop == len(rows):
            publish(project, LATE)
        if killed is not None:
            killed_in(project, select, killed)
        else:
            build(project, select)


def assert_that_it_stays(project: Project, select: str) -> None:
    once = content(project)
    build(project, select)
    assert content(project) == once
    build(project, select, "--full-refresh")
    assert content(project) == once
    ((shown, answered),) = project.query(
        "select count(*), count(*) filter (where is_positive) from fct_impressions"
    )
    assert shown > answered > 0


def test_tiles_and_attribution_stay_the_same(
    make_checkerboard: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = make_checkerboard(tmp_path)
    comes_in_pieces(project, 0, INCREMENTAL, [None, "fct_impressions"])
    assert_that_it_stays(project, INCREMENTAL)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_features_and_training_stay_the_same(
    make_checkerboard: Callable[[Path], Project], tmp_path: Path, seed: int
) -> None:
    project = make_checkerboard(tmp_path)
    build(project, EVERYTHING, at=END)
    kills = ["tile_user_days", None, "stg_events", "fct_impressions", None]
    comes_in_pieces(project, seed, EVERYTHING, kills)
    assert {table for table, _ in content(project)} == set(PARTITIONS)
    assert_that_it_stays(project, EVERYTHING)
