from feedloop import frames
from recommender import stages
from recommender.ease import EaseParams


def model(dbt, session):
    dbt.config(materialized="table")
    params = EaseParams(**dbt.config.get("ease"))
    pairs = dbt.ref("int_user_items").filter(
        f"recency_place <= {params.most_of_person}"
    )
    table = stages.item_weights(
        frames.arrow(dbt.ref("int_as_of")), frames.arrow(pairs), params
    )
    return frames.frame(session, table)
