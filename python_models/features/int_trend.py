from feedloop import frames
from feedloop.contracts import seeds
from feedloop.settings import from_environment
from recommender import stages
from recommender.trend import TrendParams


def model(dbt, session):
    dbt.config(materialized="table")
    events = dbt.ref("int_trend_events")
    table = stages.trend(
        frames.arrow(dbt.ref("int_as_of")),
        frames.arrow(events.sort("occurred_at", "user_id", "item_id", "event_type")),
        seeds.read_event_types(from_environment().seeds_dir),
        TrendParams(**dbt.config.get("trend")),
        frames.previous(dbt, session),
        dbt.config.get("train_every_days"),
    )
    return frames.frame(session, table)
