"""How good the lists are on any split given as files, beside the baselines.

The stages of ``recommender`` themselves, on Arrow: embeddings, item-item,
candidates, ranker, lists. Of the test file only ``user_id`` is read before
every list is made: it says whom to serve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.support.report import Figure, report
from benchmarks.support.splits import DATASETS
from feedloop.contracts.seeds import Surface, read_event_types, read_features
from feedloop.errors import FeedloopError
from feedloop.settings import Settings, from_environment
from feedloop.telemetry import console
from recommender.arrays import column, flat
from recommender.baselines import Als, ItemItem, Popularity
from recommender.history import instants, interactions, read_history
from recommender.metrics import differences, estimates, per_user
from recommender.standalone import (
    Recipe,
    fitted,
    held_out,
    labelled_candidates,
    learnt_ranker,
    read_items,
    suited,
    with_blend,
    with_quotas,
    with_trend,
)

PACKAGES = ("implicit", "numpy", "pyarrow", "scipy", "usearch", "xgboost-cpu")
BASELINES = ("popularity", "item_item", "als")
METRICS = ("recall", "ndcg", "hr")
KS = (10, 20)
SEED = 1
SURFACE = "split"
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
MEANING = {
    "popularity": "most taken",
    "item_item": "alike to one's own",
    "als": "embeddings alone",
    "blend": "all, weighed",
    "pipeline": "all, ranked",
}


class Task(NamedTuple):
    """What is known before the truth: to whom lists are made, and, where only
    some items are to be ranked, which."""

    train: pa.Table
    items: pa.Table | None
    users: pa.Array
    among: pa.Table | None


def lists(
    task: Task, k: int, settings: Settings, threads: int
) -> Iterator[tuple[str, pa.Table]]:
    """Each method's name and its lists: user_id, item_id, rank (up to ``k``)."""
    history = read_history(task.train, read_event_types(settings.seeds_dir))
    items = read_items(task.items, history)
    recipe = Recipe(
        features=read_features(settings.seeds_dir),
        surface=relevance_only(k),
        seed=SEED,
        threads=threads,
    )
    recipe = suited(recipe, history)
    log = interactions(history, history.as_of)
    baselines: dict[str, Popularity | ItemItem | Als] = {
        "popularity": Popularity(),
        "item_item": ItemItem(),
        "als": Als(recipe.als),
    }
    for name, baseline in baselines.items():
        yield name, baseline.recommend(log, task.users, k, True, task.among)
    inner = held_out(history, recipe, task.users)
    recipe = with_trend(inner, recipe)
    examples = labelled_candidates(inner, items, recipe)
    recipe = with_blend(examples, recipe)
    ranker = learnt_ranker(examples, recipe)
    recipe = with_quotas(examples, recipe)
    with fitted(history, items, history.as_of, recipe, ranker) as now:
        people = now.users(task.users)
        for name, is_ranked in {"blend": False, "pipeline": True}.items():
            kernel = now.kernel(ranked=is_ranked)
            if task.among is not None:
                yield name, kernel.ranked(people, task.among)
                continue
            batches = kernel.stream(people.to_batches(), SURFACE)
            yield name, _long(pa.Table.from_batches(batches))


def relevance_only(k: int) -> Surface:
    """Nothing but relevance: neither a diversity rule nor exploration."""
    return Surface(
        surface=SURFACE,
        list_length=k,
        ttl_hours=1,
        eligibility="active",
        repeat_policy="never",
        exploration_slots=0,
        diversity_cap=0,
        attribution_window_hours=1,
        trains_ranker=True,
        serves_list=True,
    )


def _long(made: pa.Table) -> pa.Table:
    """Lists as one row an item."""
    listed = made["item_ids"].combine_chunks()
    row = pc.list_parent_indices(listed)
    places = [range(1, len(one) + 1) for one in listed]
    return pa.table(
        {
            "user_id": made["user_id"].combine_chunks().take(row),
            "item_id": pc.list_flatten(listed),
            "rank": pa.array([rank for one in places for rank in one], pa.int32()),
        }
    )


def measured(
    task: Task,
    test: Callable[[], pa.Table],
    ks: tuple[int, ...],
    settings: Settings,
    threads: int,
) -> list[Figure]:
    """The figures of all methods on one task. ``test`` reads the truth, and is
    called when every list is made."""
    made = {}
    for name, found in lists(task, max(ks), settings, threads):
        made[name] = found
        console.print(f"{name}: lists made")
    answers = test()
    if _drawn_at_random(task.train, answers):
        console.print(
            "Most of the test is older than what is known of the same people, and the "
            "lists are for what comes next; leave occurred_at out of --train."
        )
    truth = _truth(task.train, answers)
    values = {name: per_user(found, truth, ks) for name, found in made.items()}
    figures = [
        Figure(f"{name}.{metric}@{k}", estimate.mean, MEANING[name])
        for name, table in values.items()
        for k in ks
        for metric in METRICS
        for estimate in [estimates(table, SEED)[f"{metric}@{k}"]]
    ]
    return [*figures, *_lead(values, ks)]


def _drawn_at_random(train: pa.Table, test: pa.Table) -> bool:
    """Whether most of the test, where both have times of one type, is from before
    its user's last event in ``train``."""
    time = "occurred_at"
    if not all(time in table.column_names for table in (train, test)):
        return False
    if train.schema.field(time).type != test.schema.field(time).type:
        return False
    known, asked = (
        pa.table(
            {
                "user_id": column(table, "user_id", pa.string()),
                "at": pa.array(instants(table, time)),
            }
        )
        for table in (train, test.filter(pc.is_valid(test[time])))
    )
    last = known.group_by("user_id").aggregate([("at", "max")])
    both = asked.join(last, "user_id", join_type="inner")
    older = pc.sum(pc.less(both["at"], both["at_max"])).as_py() or 0
    return older > len(both) / 2


def _truth(train: pa.Table, test: pa.Table) -> pa.Table:
    """The pairs of the test that were not known before."""
    keys = ["user_id", "item_id"]
    pairs = _pairs(test).group_by(keys).aggregate([])
    new = pairs.join(
        _pairs(train).group_by(keys).aggregate([]), keys, join_type="left anti"
    )
    if len(new) < len(pairs):
        console.print(f"{len(pairs) - len(new)} pairs of the test are known; left out.")
    return new.sort_by([(key, "ascending") for key in keys])


def _pairs(table: pa.Table) -> pa.Table:
    return pa.table(
        {name: column(table, name, pa.string()) for name in ("user_id", "item_id")}
    )


def _lead(values: Mapping[str, pa.Table], ks: tuple[int, ...]) -> Iterator[Figure]:
    """How far the pipeline is above the best baseline, and the interval."""
    for k in ks:
        for metric in METRICS:
            name = f"{metric}@{k}"
            mean = {one: pc.mean(values[one][name]).as_py() for one in BASELINES}
            best = max(BASELINES, key=mean.__getitem__)
            lead = differences(values["pipeline"], values[best], SEED)[name]
            for bound in ("mean", "low", "high"):
                yield Figure(
                    f"lead.{name}.{bound}",
                    getattr(lead, bound),
                    f"pipeline over {best}",
                )


def read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file, or by its name a CSV file with a header."""
    try:
        if path.suffix != ".csv":
            return pq.read_table(path, columns=columns)
        return pyarrow.csv.read_csv(
            path,
            convert_options=pyarrow.csv.ConvertOptions(include_columns=columns),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError, FileNotFoundError) as error:
        raise click.ClickException(f"{path} can't be read: {error}") from error


def _public(names: tuple[str, ...], ks: tuple[int, ...], threads: int) -> list[Figure]:
    """Figures of the datasets below FEEDLOOP_DATA, keys led by their names."""
    settings = from_environment()
    found = []
    for name in names or DATASETS:
        console.print(f"{name} …")
        try:
            split = DATASETS[name](settings.data_dir)
        except (duckdb.IOException, FileNotFoundError) as error:
            raise click.ClickException(
                f"{name} isn't below {settings.data_dir}; set FEEDLOOP_DATA. {error}"
            ) from error
        users = flat(column(split.test, "user_id", pa.string())).unique()
        task = Task(split.train, split.items, users, None)
        figures = measured(task, partial(_same, split.test), ks, settings, threads)
        found += [Figure(f"{name}.{one.key}", *one[1:]) for one in figures]
    return found


def _same(table: pa.Table) -> pa.Table:
    return table


def _given(
    train: Path,
    test: Path,
    items: Path | None,
    negatives: Path | None,
    ks: tuple[int, ...],
    threads: int,
) -> list[Figure]:
    """Figures of one split given as files."""
    users = flat(column(read(test, ["user_id"]), "user_id", pa.string())).unique()
    known = None if items is None else read(items)
    log, among = read(train), None
    if negatives is not None:
        # The pairs to rank, unmarked: which of them is the answer isn't told.
        among = pa.concat_tables([_pairs(read(negatives)), _pairs(read(test))])
        among = (
            among.group_by(["user_id", "item_id"])
            .aggregate([])
            .sort_by([("user_id", "ascending"), ("item_id", "ascending")])
        )
    task = Task(log, known, users, among)
    return measured(task, partial(read, test), ks, from_environment(), threads)


@click.command(
    name="quality",
    epilog="Example: python -m benchmarks.quality --train A.parquet --test B.parquet "
    "--k 10 20 --out R.json",
)
@click.option(
    "--train",
    type=FILE,
    help="What is known: user_id, item_id, and where known occurred_at and event_type.",
)
@click.option("--test", type=FILE, help="What came next: user_id, item_id.")
@click.option(
    "--items",
    type=FILE,
    help="What is known of items: item_id, category, "
    "title, tags, published_at, is_active; any of them.",
)
@click.option(
    "--protocol",
    type=click.Choice(["full", "sampled"]),
    default="full",
    show_default=True,
    help="Rank every item, or only a person's test items and --negatives.",
)
@click.option("--negatives", type=FILE, help="For sampled: user_id, item_id.")
@click.option(
    "--k",
    "ks",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="K ...",
    help="Lengths of lists; default: 10 20.",
)
@click.argument("more_ks", nargs=-1, type=click.IntRange(min=1), metavar="")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    type=click.Choice(list(DATASETS)),
    help="Without --train: a public dataset below FEEDLOOP_DATA (repeatable); "
    "default: all.",
)
@click.option("--threads", type=click.IntRange(min=0), default=0, help="0: all.")
@click.option("--quick", is_flag=True, help="The smallest dataset only.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the figures there as JSON.",
)
def command(
    train: Path | None,
    test: Path | None,
    items: Path | None,
    protocol: str,
    negatives: Path | None,
    ks: tuple[int, ...],
    more_ks: tuple[int, ...],
    datasets: tuple[str, ...],
    threads: int,
    quick: bool,
    out: Path | None,
) -> None:
    """Recall, NDCG and hit rate of the lists, and of the baselines.

    On the split given by --train and --test, CSV or Parquet, or without them
    on the public datasets. Items a person has in --train are never listed, and
    such pairs in --test don't count; items that only --test has count as
    misses.

    With times in --train lists are made for what comes after them. Leave
    occurred_at out where --test was drawn at random from among them.
    """
    wanted = tuple(sorted({*ks, *more_ks})) or KS
    if (train is None) != (test is None):
        raise click.UsageError("--train and --test go together.")
    if (protocol == "sampled") != (negatives is not None):
        raise click.UsageError("--protocol sampled and --negatives go together.")
    if train is None and (items or negatives):
        raise click.UsageError("--items and --negatives need --train and --test.")
    try:
        if train is not None and test is not None:
            found = _given(train, test, items, negatives, wanted, threads)
        else:
            names = ("movielens-100k",) if quick else datasets
            found = _public(names, wanted, threads)
        report("quality", found, PACKAGES, out)
    except FeedloopError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    command()
