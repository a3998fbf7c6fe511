"""The items nearest to a user: the index as a build has it, beside exact search."""

from __future__ import annotations

import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits
from usearch.compiled import MetricKind
from usearch.index import search

from benchmarks.support import catalogue
from benchmarks.support.measure import in_turn
from benchmarks.support.report import Figure, benchmark
from recommender.arrays import Floats, Ints
from recommender.build import INDEX_FILE, UNIT, Build
from recommender.nearest import nearest
from recommender.pairs import split_pairs
from recommender.params import KernelParams
from recommender.users import Users, read_users

WANTED = 300
A_CALL = 128
EXACT_A_CALL = 32
NOTHING = np.zeros(0, np.uint64)
MOVED_EVERY = 100


class _Size(NamedTuple):
    items: tuple[int, ...]
    users: int
    rounds: int


FULL = _Size((100_000, 1_000_000), 256, 3)
QUICK = _Size((20_000,), 128, 1)


class _Search(NamedTuple):
    """Sets of ordinals by user, and what they took."""

    found: list[set[int]]
    wall_s: float


def _indexed(users: Users, build: Build) -> _Search:
    found: list[set[int]] = []
    start = time.perf_counter()
    for first in range(0, len(users), A_CALL):
        part = users.part(first, first + A_CALL)
        row, item = split_pairs(nearest(part, build, NOTHING, WANTED)[0])
        bounds = np.searchsorted(row, np.arange(1, len(part)))
        found += [set(some.tolist()) for some in np.split(item, bounds)]
    return _Search(found, time.perf_counter() - start)


def _exact(users: Users, table: Floats) -> _Search:
    """usearch's own exact search."""
    start = time.perf_counter()
    matches = search(table, users.vectors, WANTED, MetricKind.IP, exact=True, threads=1)
    wall_s = time.perf_counter() - start
    return _Search([set(some) for some in matches.keys.tolist()], wall_s)


def _product(users: Users, table: Floats) -> _Search:
    """A matrix product and ``argpartition``: NumPy at its best."""
    found: list[set[int]] = []
    start = time.perf_counter()
    for first in range(0, len(users), EXACT_A_CALL):
        dots = users.vectors[first : first + EXACT_A_CALL] @ table.T
        best: Ints = np.argpartition(-dots, WANTED, axis=1)[:, :WANTED]
        found += [set(some) for some in best.tolist()]
    return _Search(found, time.perf_counter() - start)


def _figures(items: int, size: _Size) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as folder:
        start = time.perf_counter()
        build = catalogue.make_build(
            Path(folder), items, complete=False, params=KernelParams()
        )
        build_s = time.perf_counter() - start
        index = next(Path(folder).rglob(INDEX_FILE)).stat().st_size
        users = read_users(catalogue.people(size.users, build, 2), build)
        table: Floats = build.item_vectors.astype(np.float32)
        table *= build.item_norms[:, None] / np.float32(UNIT)
        with threadpool_limits(1):
            build.longest_vectors  # noqa: B018  (read before the clock runs)
            taken = in_turn(
                {
                    "index": lambda: _indexed(users, build),
                    "exact": lambda: _exact(users, table),
                    "product": lambda: _product(users, table),
                },
                size.rounds,
            )
        start = time.perf_counter()
        next_night = catalogue.make_build(
            Path(folder),
            items,
            complete=False,
            params=KernelParams(),
            as_of=catalogue.AS_OF + timedelta(days=1),
            moved_every=MOVED_EVERY,
        )
        next_s = time.perf_counter() - start
        counts = next_night.manifest.counts
        added = counts["items_added_to_index"] / max(counts["items_indexed"], 1)
    spent = {
        name: float(np.median([one.wall_s for one in searches]))
        for name, searches in taken.items()
    }
    truth = taken["exact"][0].found
    recall = float(
        np.mean(
            [
                len(mine & theirs) / WANTED
                for mine, theirs in zip(taken["index"][0].found, truth, strict=True)
            ]
        )
    )
    at = f"_{items // 1000}k"
    what = f"of {items:,} items"
    ratio = spent["exact"] / spent["index"]
    product = spent["product"] / spent["index"]
    return [
        Figure(f"recall_at_300{at}", recall, f"of the exact 300 {what}", "≥ 0.95"),
        Figure(f"ratio_to_exact{at}", ratio, f"times the exact search {what}", "≥ 10"),
        Figure(f"ratio_to_product{at}", product, f"times NumPy's exact search {what}"),
        Figure(
            f"users_per_s{at}",
            size.users / spent["index"],
            f"searches a second {what}, one thread",
        ),
        Figure(
            f"build_s{at}",
            build_s,
            f"to write and open a build {what}, index and catalogue, one thread",
        ),
        Figure(
            f"next_build_s{at}",
            next_s,
            f"of the next night, {added:.1%} of the index's items new or moved",
        ),
        Figure(f"index_bytes_per_item{at}", index / items, f"of the index {what}"),
    ]


@benchmark("retrieve", ["usearch", "numpy"])
def main(quick: bool) -> list[Figure]:
    """The nearest 300 of 100,000 and of a million items of 64 factors."""
    size = QUICK if quick else FULL
    figures = [figure for items in size.items for figure in _figures(items, size)]

    def worst(key: str) -> float:
        return min(one.value for one in figures if one.key.startswith(f"{key}_"))

    return [
        Figure("recall_at_300", worst("recall_at_300"), "at the worse size", "≥ 0.95"),
        Figure("ratio_to_exact", worst("ratio_to_exact"), "at the worse size", "≥ 10"),
        *figures,
    ]


if __name__ == "__main__":
    main()
