from feedloop import frames
from recommender import stages
from recommender.item_item import ItemItemParams


def model(dbt, session):
    dbt.config(materialized="table")
    params = ItemItemParams(**dbt.config.get("item_item"))
    pairs = dbt.ref("int_user_items").filter(f"recency_place <= {params.most_items}")
    table = stages.item_neighbours(
        frames.arrow(dbt.ref("int_as_of")), frames.arrow(pairs), params
    )
    return frames.frame(session, table)
