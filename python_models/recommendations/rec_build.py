from feedloop import frames
from feedloop.contracts import seeds
from feedloop.settings import from_environment
from recommender import stages
from recommender.params import KernelParams


def model(dbt, session):
    dbt.config(materialized="table")
    settings = from_environment()
    serving = "purpose = 'serving'"
    instant = frames.only_row(dbt.ref("int_as_of").filter(serving))
    vectors = dbt.ref("emb_item_vectors").filter(serving).sort("item_id")
    neighbours = dbt.ref("emb_item_neighbours").filter(serving)
    weights = dbt.ref("emb_item_weights").filter(serving)
    ranker = frames.arrow(dbt.ref("rank_ranker"))
    manifest = stages.write_build(
        settings.builds_dir,
        as_of=instant["as_of"],
        items=frames.arrow(dbt.ref("feat_items").sort("item_id")),
        vectors=frames.arrow(vectors),
        neighbours=frames.arrow(neighbours.sort("item_id", "neighbour_id")),
        weights=frames.arrow(weights.sort("item_id", "other_id")),
        tastes=frames.arrow(dbt.ref("emb_tastes").sort("entity_type", "entity_id")),
        categories=frames.arrow(dbt.ref("dim_categories")),
        ranker=ranker["model"][0].as_py() if len(ranker) else None,
        features=seeds.read_features(settings.seeds_dir),
        surfaces=seeds.read_surfaces(settings.seeds_dir),
        params=stages.quotas_in_force(KernelParams(**dbt.config.get("kernel")), ranker),
    )
    return frames.frame(session, stages.build_row(manifest))
