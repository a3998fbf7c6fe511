"""ALS on a file of interactions, ours or bare, in a process of its own.

``python -m benchmarks.support.als ours|bare FILE ITERATIONS`` prints the seconds
of the training alone, with what it needs to get from ids to a matrix.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from recommender.embeddings import AlsParams, train_item_factors


def ours(table: pa.Table, params: AlsParams) -> None:
    """What ``emb_item_factors`` calls."""
    train_item_factors(table, params)


def bare(table: pa.Table, params: AlsParams) -> None:
    """What somebody writes who has implicit and the same file."""
    user, item = (
        table[name].combine_chunks().dictionary_encode()
        for name in ("user_id", "item_id")
    )
    matrix = sp.csr_matrix(
        (
            table["confidence"].to_numpy().astype(np.float32),
            (user.indices.to_numpy(), item.indices.to_numpy()),
        )
    )
    with threadpool_limits(1, "blas"):  # implicit asks for it
        model = AlternatingLeastSquares(
            factors=params.factors,
            regularization=params.regularization,
            alpha=params.alpha,
            iterations=params.iterations,
            random_state=params.seed,
        )
        model.fit(matrix, show_progress=False)


SIDES: dict[str, Callable[[pa.Table, AlsParams], None]] = {"ours": ours, "bare": bare}


def main(side: str, file: str, iterations: str) -> None:
    table = pq.read_table(Path(file))
    start = time.perf_counter()
    SIDES[side](table, AlsParams(iterations=int(iterations)))
    sys.stdout.write(str(time.perf_counter() - start))


if __name__ == "__main__":
    main(*sys.argv[1:])
