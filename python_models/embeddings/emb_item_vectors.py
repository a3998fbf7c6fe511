from feedloop import frames
from recommender import stages


def model(dbt, session):
    dbt.config(materialized="table")
    table = stages.item_vectors(
        frames.arrow(dbt.ref("int_as_of")),
        frames.arrow(dbt.ref("emb_items").sort("purpose", "item_id")),
        frames.arrow(dbt.ref("emb_item_factors").sort("purpose", "item_id")),
    )
    return frames.frame(session, table)
