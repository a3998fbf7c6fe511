"""Item factors by Spark MLlib's ALS, where training is too much for one machine.

Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets"
(2008), as the library implicit solves it, but for two things. MLlib weighs what
was observed by 1 + alpha · confidence, where implicit leaves the 1 out. And it
multiplies the penalty of a row by the number of its observations (Zhou et al.,
"Large-Scale Parallel Collaborative Filtering for the Netflix Prize", 2008),
which ``train_item_factors`` undoes on average.
"""

from __future__ import annotations

import math

import pyarrow as pa
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as sql

from recommender.embeddings import ITEM_VECTORS, AlsParams


def train_item_factors(interactions: DataFrame, params: AlsParams) -> pa.Table:
    """Item factors (ITEM_VECTORS, sorted by item_id).

    ``interactions``: user_id, item_id, confidence (> 0), one row a pair. Only the
    items' factors come to the driver. With the same rows, parameters and
    ``spark.sql.shuffle.partitions`` the factors are the same bits where one
    executor runs; of several it depends which block of a sum comes first. No
    interactions: an empty table.
    """
    spread = int(interactions.sparkSession.conf.get("spark.sql.shuffle.partitions"))
    users, items = (_numbered(interactions, id) for id in ("user_id", "item_id"))
    ratings = (
        interactions.join(users, "user_id")
        .join(items, "item_id")
        .select("user", "item", sql.col("confidence").cast("float").alias("rating"))
        # the order in which floats are added is that of the rows
        .repartition(spread, "user")
        .sortWithinPartitions("user", "item")
        .persist()
    )
    try:
        pairs, people, things = ratings.agg(
            sql.count("*"), sql.count_distinct("user"), sql.count_distinct("item")
        ).first()
        if pairs == 0:
            return ITEM_VECTORS.empty_table()
        # A penalty of the users' rows and one of the items' weigh as their
        # geometric mean does: the factors of one side take what the other leaves.
        observed_a_row = pairs / math.sqrt(people * things)
        model = ALS(
            rank=params.factors,
            maxIter=params.iterations,
            regParam=params.regularization / observed_a_row,
            implicitPrefs=True,
            alpha=params.alpha,
            numUserBlocks=spread,
            numItemBlocks=spread,
            seed=params.seed,
        ).fit(ratings)
        found = model.itemFactors.join(items, sql.col("id") == sql.col("item"))
        table = found.select("item_id", sql.col("features").alias("vector")).toArrow()
    finally:
        ratings.unpersist()
    return _balanced(table.sort_by("item_id").cast(ITEM_VECTORS), people / things)


def _numbered(interactions: DataFrame, id: str) -> DataFrame:
    """The distinct ids, and their places among them: MLlib asks for numbers, of
    32 bits. One task sorts them, whatever their number."""
    place = sql.row_number().over(Window.orderBy(id)) - 1
    return interactions.select(id).distinct().withColumn(id.removesuffix("_id"), place)


def _balanced(factors: pa.Table, people_an_item: float) -> pa.Table:
    """``factors`` as long as an equal penalty on both sides leaves them, which
    folding users in takes for granted.

    With penalties p and q on the users' and on the items' rows, p|X|² = q|Y|² at
    the optimum, and X·Y stays where both are equal: Y is then (q/p)^¼ as long.
    """
    scale = people_an_item**0.25
    vector = factors["vector"].combine_chunks()
    scaled = pa.array(vector.values.to_numpy() * scale, pa.float32())
    made = pa.ListArray.from_arrays(vector.offsets, scaled)
    return factors.set_column(1, ITEM_VECTORS.field("vector"), made)
