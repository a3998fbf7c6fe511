from feedloop import frames
from recommender import stages
from recommender.taste_model import TasteParams


def model(dbt, session):
    dbt.config(materialized="table")
    serving = "purpose = 'serving'"
    table = stages.tastes(
        frames.arrow(dbt.ref("int_as_of")),
        frames.arrow(dbt.ref("emb_taste_events")),
        people=frames.arrow(dbt.ref("emb_people").filter(serving)),
        items=frames.arrow(dbt.ref("emb_items").filter(serving)),
        categories=frames.arrow(dbt.ref("dim_categories")),
        params=TasteParams(**dbt.config.get("tastes")),
    )
    return frames.frame(session, table)
