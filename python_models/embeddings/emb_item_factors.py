from feedloop import frames
from recommender import stages
from recommender.embeddings import AlsParams, train_item_factors


def model(dbt, session):
    dbt.config(materialized="table")
    engine, params = dbt.config.get("als_engine"), AlsParams(**dbt.config.get("als"))
    train = frames.als(session, engine, train_item_factors)
    interactions = dbt.ref("emb_interactions")
    table = stages.item_factors(
        frames.arrow(dbt.ref("int_as_of")),
        frames.arrow(interactions.select("purpose", "item_id").distinct()),
        lambda purpose: train(interactions.filter(f"purpose = '{purpose}'"), params),
        f"{engine} {params!r}",
        frames.previous(dbt, session),
        dbt.config.get("train_every_days"),
    )
    return frames.frame(session, table)
