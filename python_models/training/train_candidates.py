from feedloop import frames
from feedloop.contracts import seeds
from feedloop.settings import from_environment
from recommender import stages
from recommender.params import KernelParams


def model(dbt, session):
    dbt.config(materialized="table")
    folder = from_environment().seeds_dir
    table = stages.training_candidates(
        frames.arrow(dbt.ref("int_as_of")),
        frames.batches(session, dbt.ref("train_users").sort("user_id")),
        frames.arrow(dbt.ref("train_labels").sort("user_id", "item_id")),
        items=frames.arrow(dbt.ref("int_item_features").sort("purpose", "item_id")),
        vectors=frames.arrow(dbt.ref("emb_item_vectors").sort("purpose", "item_id")),
        neighbours=frames.arrow(
            dbt.ref("emb_item_neighbours").sort("purpose", "item_id", "neighbour_id")
        ),
        weights=frames.arrow(
            dbt.ref("emb_item_weights").sort("purpose", "item_id", "other_id")
        ),
        categories=frames.arrow(dbt.ref("dim_categories")),
        features=seeds.read_features(folder),
        surfaces=seeds.read_surfaces(folder),
        params=KernelParams(**dbt.config.get("kernel")),
        seed=dbt.config.get("seed"),
    )
    return frames.frame(session, table)
