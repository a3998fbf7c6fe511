from feedloop import frames
from feedloop.settings import from_environment
from recommender import publication


def model(dbt, session):
    dbt.config(materialized="table")
    build = frames.only_row(dbt.ref("rec_build"))
    builds_dir = from_environment().builds_dir
    return frames.frame(
        session, publication.feature_log_items(builds_dir, build["build_id"])
    )
