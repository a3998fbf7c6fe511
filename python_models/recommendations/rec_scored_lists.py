from feedloop import frames
from feedloop.contracts import seeds
from feedloop.settings import from_environment
from recommender.scorer import Scorer


def model(dbt, session):
    dbt.config(materialized="table")
    settings = from_environment()
    build = frames.only_row(dbt.ref("rec_build"))
    scorer = Scorer(settings.builds_dir, build["build_id"], dbt.config.get("seed"))
    users = dbt.ref("emb_kernel_users").filter("purpose = 'serving'")
    cold = scorer.cold_lists(seeds.read_surfaces(settings.seeds_dir))
    return frames.mapped(session, users.sort("user_id", "surface"), scorer, cold)
