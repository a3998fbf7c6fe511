from feedloop import frames
from feedloop.contracts import builds, seeds
from feedloop.settings import from_environment
from recommender import publication


def model(dbt, session):
    dbt.config(materialized="table")
    settings = from_environment()
    files = {
        builds.LISTS_FILE: dbt.ref("rec_lists"),
        builds.FEATURE_LOG_FILE: dbt.ref("rec_feature_log"),
        builds.FEATURE_LOG_ITEMS_FILE: dbt.ref("rec_feature_log_items"),
        builds.USER_FEATURES_FILE: dbt.ref("feat_users").sort("user_id"),
        builds.ITEM_FEATURES_FILE: dbt.ref("feat_items").sort("item_id"),
    }
    table = publication.publish(
        settings.builds_dir,
        frames.only_row(dbt.ref("rec_build")),
        seeds.read_surfaces(settings.seeds_dir),
        frames.arrow(dbt.ref("dim_categories")),
        {name: frames.batches(session, rows) for name, rows in files.items()},
    )
    return frames.frame(session, table)
