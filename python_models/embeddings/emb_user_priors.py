from feedloop import frames
from recommender import stages


def model(dbt, session):
    dbt.config(materialized="table")
    table = stages.user_priors(
        frames.arrow(dbt.ref("int_as_of")),
        frames.arrow(dbt.ref("emb_people").sort("purpose", "user_id")),
        frames.arrow(dbt.ref("emb_user_vectors").sort("purpose", "user_id")),
        frames.arrow(dbt.ref("emb_segments").sort("purpose", "segment")),
    )
    return frames.frame(session, table)
