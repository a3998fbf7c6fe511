"""Lists for users in any number and from any process: a build, a seed, their rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from feedloop.contracts.kernel import LIST_COLUMNS
from feedloop.contracts.seeds import Surface
from recommender.build import open_model
from recommender.kernel import USERS_A_BATCH, ListKernel, rebatched


@dataclass(frozen=True)
class Scorer:
    """Lists (LIST_COLUMNS) for batches of kernel users with a column ``surface``
    that names their list's: of a build, a seed and those rows alone, so that it
    is the same wherever it runs. It opens the build when first asked.

    ``threads`` (0: all that this process may use) changes the time only.
    """

    builds_dir: Path
    build_id: str
    seed: int
    threads: int = 0

    schema = LIST_COLUMNS

    @cached_property
    def _kernel(self) -> ListKernel:
        build = open_model(self.builds_dir, self.build_id)
        return ListKernel(build, seed=self.seed, threads=self.threads)

    def on_one_thread(self) -> Scorer:
        """The same, to run beside others; small, for nothing is opened yet."""
        return replace(self, threads=1)

    def __call__(self, users: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in rebatched(users, USERS_A_BATCH):
            for surface in pc.unique(batch["surface"]).to_pylist():
                rows = batch.filter(pc.equal(batch["surface"], surface))
                yield self._kernel.lists(rows, surface)

    def cold_lists(self, surfaces: Mapping[str, Surface]) -> pa.Table:
        """The cold-start list of every surface that serves one."""
        lists = [
            self._kernel.cold_lists(surface.surface)
            for surface in surfaces.values()
            if surface.serves_list
        ]
        return pa.Table.from_batches(lists, LIST_COLUMNS)
