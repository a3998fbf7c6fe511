"""``feedloop tune``: hyper-parameters for the log at hand, as dbt variables."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
import pyarrow as pa

from feedloop.cli.build import parse_instant
from feedloop.contracts.seeds import read_event_types, read_features, read_surfaces
from feedloop.errors import WarehouseEmpty
from feedloop.settings import Settings, from_environment
from feedloop.telemetry import progress
from loaders.duckdb_plugin import raw_views
from recommender.history import read_history
from recommender.standalone import Recipe, read_items
from recommender.tuning import Trial, Tuned, tune

SEED = 20260101
ITEM_COLUMNS = "item_id, category, title, tags, published_at, is_active"
NO_ITEMS = pa.table({"item_id": pa.array([], pa.string())})


def tuned(
    settings: Settings, as_of: datetime | None, trials: int, minutes: float
) -> Tuned:
    """Tune on what the raw tables know at ``as_of`` (None: all of it)."""
    events, items = _known(settings, as_of)
    history = read_history(events, read_event_types(settings.seeds_dir))
    if len(history) == 0:
        raise WarehouseEmpty(
            f"{settings.raw_schema}.events holds no engagement up to that instant; "
            "bring data with `feedloop load` or `feedloop import movielens-100k`."
        )
    surfaces = read_surfaces(settings.seeds_dir).values()
    recipe = Recipe(
        features=read_features(settings.seeds_dir),
        surface=next(one for one in surfaces if one.trains_ranker),
        seed=SEED,
    )
    with progress("trials", total=trials) as advance:
        return tune(
            history, read_items(items, history), recipe, trials, 60 * minutes, advance
        )


def _known(settings: Settings, as_of: datetime | None) -> tuple[pa.Table, pa.Table]:
    """Interactions with their types, and the newest version of each item."""
    until = as_of or datetime.max.replace(tzinfo=UTC)
    with raw_views(settings) as connection:
        events = connection.execute(
            "select user_id, item_id, event_type, min(occurred_at) as occurred_at "
            "from events where item_id is not null and occurred_at <= ? "
            "group by event_id, user_id, item_id, event_type order by all",
            [until],
        ).to_arrow_table()
        (catalogue,) = connection.execute(
            "select count(*) from duckdb_views() where view_name = 'items'"
        ).fetchall()[0]
        if not catalogue:
            return events, NO_ITEMS
        items = connection.execute(
            f"select {ITEM_COLUMNS} from items where ingested_at <= ? qualify "
            "row_number() over (partition by item_id order by ingested_at desc, "
            "log_partition desc, log_offset desc) = 1 order by item_id",
            [until],
        ).to_arrow_table()
    return events, items


def as_yaml(found: Tuned) -> str:
    """The best trial as variables of dbt, with what they are worth."""
    best, first = found.best, found.trials[0]
    lines = [
        f"# NDCG {best.ndcg:.4f} on the inner split; {first.ndcg:.4f} with the "
        f"defaults; {len(found.trials)} trials.",
        *(f"{name}: {value:g}" for name, value in best.variables.items()),
    ]
    return "\n".join(lines) + "\n"


@click.command(
    name="tune",
    epilog="Example: feedloop tune --trials 30 --out tuned.yml && "
    'dbt build --vars "$(cat tuned.yml)"',
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Sets of hyper-parameters tried, the defaults among them.",
)
@click.option(
    "--budget",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Minutes after which no other trial begins.",
)
@click.option(
    "--as-of",
    metavar="INSTANT",
    help="Nothing later is known (ISO, UTC); default: all there is.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("tuned.yml"),
    show_default=True,
    help="Where the variables go, as YAML.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the trials as JSON.")
def command(
    trials: int, budget: float, as_of: str | None, out: Path, as_json: bool
) -> None:
    """Choose hyper-parameters on a time split of the log.

    The newest interactions are held out; each trial makes the others' lists
    and is judged by those. The same log, trials and versions give the same
    variables, unless the budget ends the trials.
    """
    instant = parse_instant(as_of) if as_of else None
    found = tuned(from_environment(), instant, trials, budget)
    out.write_text(as_yaml(found), encoding="utf-8")
    if as_json:
        click.echo(msgspec.json.encode({"best": found.best, "trials": found.trials}))
        return
    for number, trial in enumerate(found.trials):
        click.echo(_line(number, trial))
    click.echo(f'Best: {out}\nNext: dbt build --vars "$(cat {out})"')


def _line(number: int, trial: Trial) -> str:
    values = ", ".join(f"{name} {value:g}" for name, value in trial.variables.items())
    name = "defaults" if number == 0 else f"trial {number}"
    return (
        f"{name:<9} NDCG {trial.ndcg:.4f} ({trial.lead:+.4f}, at least "
        f"{trial.lead_low:+.4f}), retrieved {trial.retrieved:.3f}, "
        f"{trial.seconds:.0f} s: {values}"
    )
