"""What the hyper-parameters that nobody tuned lose against the best of many.

On the inner split of each public dataset: what is held out of what is known before
its cut. Nothing here reads the truth after it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from benchmarks.quality import relevance_only
from benchmarks.support.report import Figure, benchmark
from benchmarks.support.splits import DATASETS
from feedloop.contracts.seeds import read_event_types, read_features
from feedloop.settings import from_environment
from feedloop.telemetry import console
from recommender.arrays import column, flat
from recommender.history import read_history
from recommender.standalone import Recipe, read_items
from recommender.tuning import tune

PACKAGES = ("implicit", "numpy", "scipy", "usearch", "xgboost-cpu")
NAMES = ("movielens-100k", "retailrocket", "globo-13")
TRIALS, QUICK_TRIALS = 12, 2
BUDGET_S = 240.0
LISTED = 20
SEED = 1


@benchmark("tuning", PACKAGES)
def main(quick: bool) -> list[Figure]:
    """NDCG@10 over the people held out, with the defaults and with the best of
    some random trials, whether it is surely better or by chance."""
    names = NAMES[:1] if quick else NAMES
    trials = QUICK_TRIALS if quick else TRIALS
    return [figure for name in names for figure in _figures(name, trials)]


def _figures(name: str, trials: int) -> Iterator[Figure]:
    settings = from_environment()
    console.print(f"{name} …")
    split = DATASETS[name](settings.data_dir)
    history = read_history(split.train, read_event_types(settings.seeds_dir))
    recipe = Recipe(
        features=read_features(settings.seeds_dir),
        surface=relevance_only(LISTED),
        seed=SEED,
    )
    served = flat(column(split.test, "user_id", pa.string())).unique()
    items = read_items(split.items, history)
    found = tune(history, items, recipe, trials, BUDGET_S, served=served)
    first = found.trials[0]
    best = max(found.trials, key=lambda trial: trial.ndcg)
    yield Figure(f"{name}.ndcg_untuned", first.ndcg, "the defaults")
    yield Figure(f"{name}.ndcg_best", best.ndcg, f"of {len(found.trials)} trials")
    yield Figure(
        f"{name}.lost_untuned",
        1 - first.ndcg / best.ndcg,
        f"surely above the defaults by {max(best.lead_low, 0):.4f}",
        "≤ 0.05",
    )


if __name__ == "__main__":
    main()
