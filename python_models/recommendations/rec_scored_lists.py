from feedloop import frames
from feedloop.contracts import seeds
from feedloop.settings import from_environment
from recommender import stages


def model(dbt, session):
    dbt.config(materialized="table")
    settings = from_environment()
    build = frames.only_row(dbt.ref("rec_build"))
    users = dbt.ref("emb_kernel_users").filter("purpose = 'serving'")
    lists = stages.score(
        settings.builds_dir,
        build["build_id"],
        frames.batches(session, users.sort("user_id", "surface")),
        seeds.read_surfaces(settings.seeds_dir),
        dbt.config.get("seed"),
    )
    return frames.frame(session, lists)
