"""ALS on 10 million interactions, beside bare ``implicit``."""

from __future__ import annotations

import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.support.measure import in_turn, run_command
from benchmarks.support.report import Figure, benchmark


class _Size(NamedTuple):
    interactions: int
    users: int
    items: int
    rounds: int
    iterations: int


FULL = _Size(10_000_000, 500_000, 100_000, 3, 6)
"""Six iterations of the default fifteen: what comes before them weighs more."""
QUICK = _Size(200_000, 10_000, 2_000, 1, 2)


class _Took(NamedTuple):
    wall_s: float
    peak_rss_mb: float


def _write(path: Path, size: _Size) -> None:
    """Distinct pairs, popular items and busy people more often, by user."""
    rng = np.random.default_rng(0)
    keys = np.zeros(0, np.int64)
    while len(keys) < size.interactions:
        lacking = size.interactions - len(keys)
        user = size.users * rng.power(0.5, lacking)
        item = size.items * (1 - rng.power(3, lacking))
        found = user.astype(np.int64) * size.items + item.astype(np.int64)
        keys = np.unique(np.concatenate([keys, found]))
    user, item = np.divmod(keys, size.items)
    users = pa.array([f"usr_{at:010x}" for at in range(size.users)])
    items = pa.array([f"article_{at:07}" for at in range(size.items)])
    table = pa.table(
        {
            "user_id": users.take(pa.array(user)),
            "item_id": items.take(pa.array(item)),
            "confidence": rng.integers(1, 9, len(keys)).astype(np.float64),
        }
    )
    pq.write_table(table, path)


@benchmark("train", ["implicit", "numpy", "pyarrow"])
def main(quick: bool) -> list[Figure]:
    """Item factors from 10 million interactions in a file."""
    size = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as folder:
        path = Path(folder) / "interactions.parquet"
        _write(path, size)

        def run(side: str) -> _Took:
            module = [sys.executable, "-m", "benchmarks.support.als"]
            usage, told = run_command([*module, side, path, str(size.iterations)])
            return _Took(float(told), usage.peak_rss_mb)

        sides = {side: partial(run, side) for side in ("bare", "ours")}
        taken = in_turn(sides, size.rounds)

    def median(side: str) -> _Took:
        """Of each measure by itself."""
        return _Took(*map(statistics.median, zip(*taken[side], strict=True)))

    ours, bare = median("ours"), median("bare")
    time_ratio = ours.wall_s / bare.wall_s
    memory_ratio = ours.peak_rss_mb / bare.peak_rss_mb
    what = f"{size.interactions:,} interactions, {size.iterations} iterations"
    return [
        Figure(
            "ratio_to_bare_implicit",
            max(time_ratio, memory_ratio),
            "the greater of time and memory",
            "≤ 1.3",
        ),
        Figure("time_ratio", time_ratio, f"{what}, from ids to factors", "≤ 1.3"),
        Figure("memory_ratio", memory_ratio, "peak memory of the process", "≤ 1.3"),
        Figure("train_s", ours.wall_s, "ours"),
        Figure("bare_train_s", bare.wall_s, "bare implicit"),
        Figure("peak_rss_mb", ours.peak_rss_mb, "ours"),
        Figure("bare_peak_rss_mb", bare.peak_rss_mb, "bare implicit"),
    ]


if __name__ == "__main__":
    main()
