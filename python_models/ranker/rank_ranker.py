from feedloop import frames
from feedloop.contracts import seeds
from feedloop.settings import from_environment
from recommender import stages
from recommender.ranking import RankerParams


def model(dbt, session):
    dbt.config(materialized="table")
    examples = dbt.ref("train_examples").sort("group_id", "position", "item_id")
    table = stages.ranker(
        frames.arrow(dbt.ref("int_as_of")),
        frames.arrow(examples),
        seeds.read_features(from_environment().seeds_dir),
        RankerParams(),
        dbt.config.get("seed"),
        frames.previous(dbt, session),
        dbt.config.get("train_every_days"),
    )
    return frames.frame(session, table)
