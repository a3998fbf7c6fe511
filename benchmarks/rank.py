"""From candidates to lists, beside bare prediction on a ready matrix."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from benchmarks.support import catalogue
from benchmarks.support.measure import in_turn, run_command
from benchmarks.support.report import Figure, benchmark
from recommender.build import Build
from recommender.candidates import Candidates, retrieve
from recommender.explanations import EXPLAINED, contributions_of, strongest
from recommender.features import assemble
from recommender.kernel import USERS_A_CHUNK, ListKernel
from recommender.listing import rank
from recommender.params import KernelParams
from recommender.ranking import RankerParams, predict, train_ranker
from recommender.users import Users, read_users

SURFACE = "homepage"
TAUGHT_BY = 1_000
TREES = 200
"""As many as bare prediction's known speed was measured with."""


class _Size(NamedTuple):
    items: int
    users: int
    rounds: int
    more_users: int


FULL = _Size(20_000, 8_192, 5, 65_536)
QUICK = _Size(5_000, 512, 1, 2_048)


class _Chunk(NamedTuple):
    users: Users
    candidates: Candidates
    noise: np.ndarray[Any, np.dtype[np.uint64]]
    matrix: np.ndarray[Any, np.dtype[np.float32]]


def _ranked_build(folder: Path, items: int) -> Build:
    """A build whose ranker has learned from its own candidates who likes what."""
    plain = catalogue.make_build(folder, items, complete=True, params=KernelParams())
    users = catalogue.people(TAUGHT_BY, plain, seed=3)
    rows = read_users(users, plain)
    rng = np.random.default_rng(4)
    user, item = [], []
    for start in range(0, len(rows), USERS_A_CHUNK):
        part = rows.part(start, start + USERS_A_CHUNK)
        found = retrieve(part, plain)
        odds = (
            4 * found.als_cosine + found.item_item_score + rng.gumbel(size=len(found))
        )
        likes = np.flatnonzero(odds > np.quantile(odds, 0.97))
        user.append(found.row[likes] + start)
        item.append(found.item[likes])
    positives = pa.table(
        {
            "user_id": rows.ids.take(pa.array(np.concatenate(user))),
            "item_id": plain.item_ids.take(pa.array(np.concatenate(item))),
        }
    )
    examples = ListKernel(plain).candidates_for_training(users, positives)
    ranker = train_ranker(
        examples, plain.feature_names, RankerParams(rounds=TREES), seed=0
    )
    assert ranker is not None
    return catalogue.make_build(
        folder, items, complete=True, params=KernelParams(), ranker=ranker.bytes
    )


def _each(
    threads: int, work: Callable[[_Chunk], object], chunks: Sequence[_Chunk]
) -> float:
    """Seconds for all chunks, as the kernel runs them."""
    start = time.perf_counter()
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, chunks):
            pass
    return time.perf_counter() - start


def _chunks(build: Build, rows: Users) -> list[_Chunk]:
    found = []
    for start in range(0, len(rows), USERS_A_CHUNK):
        users = rows.part(start, start + USERS_A_CHUNK)
        candidates = retrieve(users, build)
        noise = np.arange(start, start + len(users), dtype=np.uint64)
        matrix = assemble(users, candidates, build)
        found.append(_Chunk(users, candidates, noise, matrix))
    return found


def _peak_mb(folder: Path, build_id: str, users: int) -> float:
    """The peak memory of a process that lists so many users and keeps none."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from benchmarks.support.catalogue import people\n"
        "from recommender.build import open_model\n"
        "from recommender.kernel import USERS_A_BATCH, ListKernel\n"
        "build = open_model(Path(sys.argv[1]), sys.argv[2])\n"
        "starts = range(0, int(sys.argv[3]), USERS_A_BATCH)\n"
        "batches = (people(USERS_A_BATCH, build, start) for start in starts)\n"
        "for _ in ListKernel(build).stream(batches, sys.argv[4]): pass\n"
    )
    command = [sys.executable, "-c", code, str(folder), build_id, str(users), SURFACE]
    usage, _ = run_command(command)
    return usage.peak_rss_mb


@benchmark("rank", ["xgboost-cpu", "numpy"])
def main(quick: bool) -> list[Figure]:
    """Users a second at 300 candidates each, beside ``inplace_predict``."""
    size = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as name:
        folder = Path(name)
        build = _ranked_build(folder, size.items)
        kernel = ListKernel(build)
        surface = build.surface(SURFACE)
        batch = catalogue.people(size.users, build, seed=5)
        chunks = _chunks(build, read_users(batch, build))

        def ranked(chunk: _Chunk) -> object:
            return rank(chunk.users, chunk.candidates, build, surface, chunk.noise)

        contributions = contributions_of(build)

        def explained(chunk: _Chunk) -> object:
            first = rank(chunk.users, chunk.candidates, build, surface, chunk.noise)
            return strongest(contributions(first.to_explain))

        def whole() -> float:
            start = time.perf_counter()
            for _ in kernel.stream([batch], SURFACE):
                pass
            return time.perf_counter() - start

        seconds = in_turn(
            {
                "bare": lambda: _each(
                    kernel.threads, lambda chunk: predict(build, chunk.matrix), chunks
                ),
                "ranked": lambda: _each(kernel.threads, ranked, chunks),
                "explained": lambda: _each(kernel.threads, explained, chunks),
                "whole": whole,
            },
            size.rounds,
        )
        few = _peak_mb(folder, build.build_id, size.more_users // 8)
        many = _peak_mb(folder, build.build_id, size.more_users)
    took = {side: statistics.median(times) for side, times in seconds.items()}
    rows = sum(len(chunk.matrix) for chunk in chunks)
    width = len(build.feature_names)
    return [
        Figure(
            "users_per_s",
            size.users / took["ranked"],
            f"{rows / size.users:.0f} candidates × {width} features, assembled, "
            f"scored by {TREES} trees and re-ranked, {kernel.threads} threads",
            "≥ 2,200",
        ),
        Figure(
            "ratio_to_bare_predict",
            took["ranked"] / took["bare"],
            "over inplace_predict on ready matrices, as many threads",
            "≤ 1.3",
        ),
        Figure("bare_users_per_s", size.users / took["bare"], "of bare prediction"),
        Figure(
            "users_per_s_explained",
            size.users / took["explained"],
            f"with reasons for the first {EXPLAINED} items of each list",
        ),
        Figure(
            "users_per_s_whole",
            size.users / took["whole"],
            f"retrieval among {size.items:,} items, explanations of "
            f"{EXPLAINED} items, Arrow in and out included",
        ),
        Figure("ratio_whole", took["whole"] / took["bare"], "of that over bare"),
        Figure(
            "memory_growth",
            many / few,
            f"peak memory with {size.more_users:,} users over an eighth of them",
            "≤ 1.1",
        ),
    ]


if __name__ == "__main__":
    main()
