from feedloop import frames
from recommender.off_policy import slot_value


def model(dbt, session):
    dbt.config(materialized="table")
    draws = dbt.ref("fct_draws").sort("event_id")
    table = slot_value(frames.arrow(draws), dbt.config.get("seed"))
    return frames.frame(session, table)
