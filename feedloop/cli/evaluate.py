"""``feedloop evaluate``: the lists, measured on public data.

The pipeline itself is run on each dataset up to a cut, with nothing but
``as_of`` to tell it what it may know, and its lists are compared with what
people did next. The baselines get the same interactions and the same people.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feedloop.cli.dbt_run import run_dbt
from feedloop.cli.quality_report import EVERYONE, PIPELINE, Quality, write_report
from feedloop.clock import SystemClock
from feedloop.contracts import builds
from feedloop.contracts.seeds import read_event_types
from feedloop.errors import WarehouseEmpty
from feedloop.settings import Settings, from_environment
from feedloop.telemetry import console
from loaders.duckdb_plugin import raw_views
from loaders.importing import import_dataset
from recommender import sources
from recommender.arrays import flat
from recommender.baselines import Als, Baseline, ItemItem, Popularity
from recommender.build import open_model
from recommender.candidates import wanted
from recommender.embeddings import AlsParams
from recommender.kernel import ListKernel
from recommender.metrics import Estimate, differences, estimates, evaluate, per_user

KS = (10, 20)
IN_SEGMENT = "popularity in segment"
SEED = 1
CASUAL, POWER = 5, 50
KNOWN_ITEM = 10
HOME = ".feedloop-evaluate"


@dataclass(frozen=True)
class Split:
    """A dataset and where it is cut.

    ``cut`` None is the instant that ``share`` of the interactions precede;
    ``horizon`` how long after it counts as truth (None: to the end).
    ``popular_hours``: what popularity in a segment looks back at (None: all).
    """

    dataset: str
    title: str
    cut: datetime | None = None
    share: float = 0.8
    horizon: timedelta | None = None
    popular_hours: float | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


SPLITS = {
    split.dataset: split
    for split in (
        Split(
            "movielens-100k",
            "MovieLens-100k: ratings, dense, seven months",
            variables={"history_days": 400},
        ),
        Split(
            "globo",
            "Globo.com: news clicks, fresh articles, short sessions",
            cut=datetime(2017, 10, 13, 15, tzinfo=UTC),
            horizon=timedelta(hours=3),
            popular_hours=24,
        ),
    )
}


def evaluate_split(settings: Settings, split: Split) -> Quality:
    """Import, build up to the cut, and compare. ``settings`` name a namespace
    of its own."""
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    end = split.cut + split.horizon if split.cut and split.horizon else None
    import_dataset(settings, SystemClock(), split.dataset, until=end)
    seconds["import"] = round(time.perf_counter() - started, 1)

    cut, history, truth = _split(settings, split)
    started = time.perf_counter()
    run_dbt(
        settings,
        "build",
        variables={**split.variables, "as_of": cut.isoformat(sep=" ")},
    )
    seconds["dbt build"] = round(time.perf_counter() - started, 1)

    people = truth["user_id"].unique()
    build_id = builds.newest_build(settings.builds_dir)
    if build_id is None:
        raise WarehouseEmpty(f"dbt made no build in {settings.builds_dir}.")
    folder, manifest = builds.read_part(settings.builds_dir, build_id, builds.LISTS)
    listed = {PIPELINE: _listed(folder / builds.LISTS_FILE, people)}
    cohorts = _cohorts(history, people)
    segments = _segments(settings, history)
    baselines: dict[str, Baseline] = {
        "popularity": Popularity(),
        "popularity, last 24 h": Popularity(as_of=cut, last_hours=24),
        IN_SEGMENT: Popularity(
            as_of=cut, last_hours=split.popular_hours, segments=segments
        ),
        "item-item": ItemItem(),
        "ALS": Als(AlsParams()),
    }
    for name, baseline in baselines.items():
        started = time.perf_counter()
        listed[name] = baseline.recommend(history, people, max(KS), True)
        seconds[name] = round(time.perf_counter() - started, 1)
    item_cohorts = _item_cohorts(history, truth)
    candidates, brought = what_sources_bring(settings, build_id, truth)
    return Quality(
        dataset=split.dataset,
        title=split.title,
        cut=cut,
        until=pc.max(truth["occurred_at"]).as_py(),
        interactions=history.num_rows,
        people=len(people),
        model_version=manifest.model_version,
        seconds=seconds,
        item_cohorts=list(item_cohorts),
        candidates=candidates,
        sources=brought,
        lead=_lead(listed, truth, cohorts, item_cohorts),
        methods={
            name: evaluate(
                rows,
                truth,
                KS,
                seed=SEED,
                train=history,
                user_cohorts=cohorts,
                item_cohorts=item_cohorts,
            )
            for name, rows in listed.items()
        },
    )


def _split(settings: Settings, split: Split) -> tuple[datetime, pa.Table, pa.Table]:
    """The cut; interactions up to it; and what people with a history engaged
    with after it and not before."""
    engaging = [
        kind.event_type
        for kind in read_event_types(settings.seeds_dir).values()
        if kind.role in ("engagement", "conversion")
    ]
    with raw_views(settings) as connection:
        connection.execute(
            "create table interactions as select user_id, item_id, occurred_at "
            "from events where list_contains(?, event_type)",
            [engaging],
        )
        cut = split.cut
        if cut is None:
            cut = connection.execute(
                "select quantile_disc(occurred_at, ?) from interactions", [split.share]
            ).fetchall()[0][0]
        history = connection.execute(
            "from interactions where occurred_at <= ? order by all", [cut]
        ).to_arrow_table()
        truth = connection.execute(
            "select user_id, item_id, min(occurred_at) as occurred_at "
            "from interactions as later where occurred_at > ? "
            "and user_id in (select user_id from interactions where occurred_at <= ?) "
            "and not exists (from interactions as before where occurred_at <= ? "
            "and before.user_id = later.user_id and before.item_id = later.item_id) "
            "group by user_id, item_id order by all",
            [cut, cut, cut],
        ).to_arrow_table()
    return cut.astimezone(UTC), history, truth


def _listed(path: Path, people: pa.Array) -> pa.Table:
    """The published lists of ``people`` as user_id, item_id, rank."""
    import duckdb

    with duckdb.connect() as connection:
        connection.register("people", pa.table({"user_id": people}))
        return connection.execute(
            "select user_id, unnest(item_ids) as item_id, "
            "cast(generate_subscripts(item_ids, 1) as integer) as rank "
            "from read_parquet(?) semi join people using (user_id)",
            [str(path)],
        ).to_arrow_table()


def what_sources_bring(
    settings: Settings, build_id: str, truth: pa.Table
) -> tuple[int, dict[str, Estimate]]:
    """How many candidates a person has, and what each source brings of the
    truth: the kernel is asked again for those that the lists were made from."""
    build = open_model(settings.builds_dir, build_id)
    (surface,) = [one for one in build.spec.surfaces.values() if one.serves_list]
    path = settings.home_dir / "kernel_users.parquet"
    asked = {"surface": surface.surface, "path": str(path)}
    run_dbt(settings, "run-operation", "copy_kernel_users", "--args", json.dumps(asked))
    people = pq.read_table(path)
    people = people.filter(
        pc.is_in(people["user_id"], value_set=flat(truth["user_id"]))
    )
    retrieved = ListKernel(build).retrieved(people, truth)
    return wanted(build), estimates(sources.per_user(retrieved, truth), SEED)


def _segments(settings: Settings, history: pa.Table) -> pa.Table:
    """user_id, segment: the catalogue's, else by how much somebody is known."""
    with raw_views(settings) as connection:
        declared = connection.execute(
            "select user_id, max_by(segment, ingested_at) as segment from users "
            "where segment is not null group by user_id"
        ).to_arrow_table()
    everyone = history["user_id"].combine_chunks().unique()
    others = everyone.filter(
        pc.invert(pc.is_in(everyone, value_set=declared["user_id"].combine_chunks()))
    )
    return pa.concat_tables(
        [
            declared,
            *(
                pa.table({"user_id": ids, "segment": [name] * len(ids)})
                for name, ids in _cohorts(history, others).items()
            ),
        ],
        promote_options="permissive",
    )


def _lead(
    listed: Mapping[str, pa.Table],
    truth: pa.Table,
    user_cohorts: Mapping[str, pa.Array],
    item_cohorts: Mapping[str, pa.Array],
) -> dict[str, dict[str, Estimate]]:
    """By cohort and metric: the pipeline above popularity in people's segment,
    resampled in pairs."""

    def values(kept: pa.Table) -> tuple[pa.Table, pa.Table]:
        return (
            per_user(listed[PIPELINE], kept, KS),
            per_user(listed[IN_SEGMENT], kept, KS),
        )

    cut = {EVERYONE: truth}
    for column, cohorts in (("user_id", user_cohorts), ("item_id", item_cohorts)):
        for name, members in cohorts.items():
            inside = pc.is_in(truth[column], value_set=flat(members))
            cut[name] = truth.filter(inside)
    return {
        name: differences(*values(kept), SEED)
        for name, kept in cut.items()
        if len(kept)
    }


def _cohorts(history: pa.Table, people: pa.Array) -> dict[str, pa.Array]:
    counts = history.group_by("user_id").aggregate([("item_id", "count")])
    counts = counts.filter(pc.is_in(counts["user_id"], value_set=people))
    size = counts["item_id_count"]
    return {
        f"new: fewer than {CASUAL}": counts["user_id"].filter(pc.less(size, CASUAL)),
        f"casual: {CASUAL} to {POWER}": counts["user_id"].filter(
            pc.and_(pc.greater_equal(size, CASUAL), pc.less_equal(size, POWER))
        ),
        f"power: more than {POWER}": counts["user_id"].filter(pc.greater(size, POWER)),
    }


def _item_cohorts(history: pa.Table, truth: pa.Table) -> dict[str, pa.Array]:
    """What people engaged with after the cut, by how known it was at it."""
    counts = history.group_by("item_id").aggregate([("user_id", "count")])
    known = counts.filter(pc.greater_equal(counts["user_id_count"], KNOWN_ITEM))
    items = truth["item_id"].unique()
    met = pc.is_in(items, value_set=counts["item_id"].combine_chunks())
    familiar = pc.is_in(items, value_set=known["item_id"].combine_chunks())
    return {
        "never before": items.filter(pc.invert(met)),
        f"1 to {KNOWN_ITEM - 1}": items.filter(pc.and_not(met, familiar)),
        f"{KNOWN_ITEM} and more": items.filter(familiar),
    }


def slot_value(settings: Settings) -> list[dict[str, Any]]:
    """The rows of mon_slot_value, as the last `dbt build` left them."""
    query = "select * from {{ ref('mon_slot_value') }} order by policy"
    shown: Any = run_dbt(settings, "show", "--inline", query, "--limit", "-1").result
    table = shown.results[0].agate_table
    return [dict(zip(table.column_names, row, strict=True)) for row in table.rows]


def _print_slot_value(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, default=float))
        return
    for row in rows:
        said = row["refusal"] or ", ".join(
            f"{name} {row[name]:.4f} [{row[f'{name}_low']:.4f}, "
            f"{row[f'{name}_high']:.4f}]"
            for name in ("ips", "snips", "dr")
        )
        click.echo(f"{row['policy']:<10} {row['draws']} draws  {said}")


@click.command(epilog="Example: feedloop evaluate --dataset movielens-100k --json")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    type=click.Choice(sorted(SPLITS)),
    help="Only this dataset (repeatable); default: all.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where the report goes; default: docs/quality.md. Plots lie beside it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON too.")
@click.option(
    "--slot",
    is_flag=True,
    help="Instead: what this project's exploration slot earns, and would earn "
    "drawing evenly, from its own log.",
)
def command(
    datasets: tuple[str, ...], out: Path | None, as_json: bool, slot: bool
) -> None:
    """Run the pipeline on public data up to a cut and compare its lists.

    The datasets are found under FEEDLOOP_DATA; each is built in a namespace of
    its own under .feedloop-evaluate, which is made anew.
    """
    base = from_environment()
    if slot:
        _print_slot_value(slot_value(base), as_json)
        return
    found = []
    for name in datasets or SPLITS:
        settings = msgspec.structs.replace(
            base, namespace=f"eval_{name.replace('-', '_')}", home=HOME
        )
        shutil.rmtree(settings.home_dir, ignore_errors=True)
        console.print(f"{SPLITS[name].title} …")
        found.append(evaluate_split(settings, SPLITS[name]))
    path = out or Path(base.project_dir) / "docs" / "quality.md"
    write_report(found, path)
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        for quality in found:
            for method, cohorts in quality.methods.items():
                figures = cohorts["all"]
                click.echo(
                    f"{quality.dataset:<16} {method:<22} "
                    f"recall@20 {figures['recall@20'].mean:.3f}  "
                    f"NDCG@20 {figures['ndcg@20'].mean:.3f}"
                )
    click.echo(f"Report: {path}")
