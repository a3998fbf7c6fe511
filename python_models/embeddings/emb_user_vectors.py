from feedloop import frames
from recommender import stages
from recommender.embeddings import AlsParams


def model(dbt, session):
    dbt.config(materialized="table")
    table = stages.user_vectors(
        frames.arrow(dbt.ref("int_as_of")),
        frames.arrow(dbt.ref("emb_interactions").sort("purpose", "user_id", "item_id")),
        frames.arrow(dbt.ref("emb_item_vectors").sort("purpose", "item_id")),
        AlsParams(**dbt.config.get("als")),
    )
    return frames.frame(session, table)
