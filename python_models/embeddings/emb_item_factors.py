from feedloop import frames
from recommender import stages
from recommender.embeddings import AlsParams


def model(dbt, session):
    dbt.config(materialized="table")
    table = stages.item_factors(
        frames.arrow(dbt.ref("int_as_of")),
        frames.arrow(dbt.ref("emb_interactions").sort("purpose", "user_id", "item_id")),
        AlsParams(**dbt.config.get("als")),
        frames.previous(dbt, session),
        dbt.config.get("train_every_days"),
    )
    return frames.frame(session, table)
