"""The kernel: a batch of users in, a batch of lists out.

Retrieve, assemble, score, re-rank, explore. A user's list depends on the build,
the seed and the user's own row only: however users are batched, on however
many threads, it is the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from threadpoolctl import ThreadpoolController

from feedloop.contracts.kernel import LIST_COLUMNS
from feedloop.contracts.lists import COLD_USER, EXPECTED, rec_id
from feedloop.contracts.seeds import Surface
from feedloop.processes import usable_cores
from recommender.arrays import (
    VECTOR,
    Bools,
    Floats,
    Ints,
    Keys,
    ids,
    lists_of,
    offsets_of,
    places_in,
    positions,
    vectors,
)
from recommender.build import Build
from recommender.candidates import NO_RANK, SOURCES, Candidates, retrieve
from recommender.cold_start import interleaved, what_interleaved
from recommender.explanations import (
    Contributions,
    Explanations,
    contributions_of,
    strongest,
)
from recommender.exploration import mix, within_reach
from recommender.features import assemble
from recommender.listing import Ranked, rank
from recommender.ranking import predict
from recommender.users import Users, read_users, unknown_user

USERS_A_BATCH = 4096
USERS_A_CHUNK = 256

TRAINING_COLUMNS = pa.schema(
    [
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("label", pa.float32(), nullable=False),
        pa.field("position", pa.int32()),
        pa.field("feature_values", VECTOR),
    ]
)
"""One row a candidate of a user with a retrieved positive."""

RANKED_COLUMNS = pa.schema(
    [("user_id", pa.string()), ("item_id", pa.string()), ("rank", pa.int32())]
)

RETRIEVED_COLUMNS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        *((source, pa.int32()) for source in SOURCES),
    ]
)
"""A candidate and its rank from 0 in each source, null where that one didn't
bring it."""

EXPLORE = "explore"
_SOURCE_NAMES = pa.array([*SOURCES, EXPLORE])
_T = TypeVar("_T")


class _Chunk(NamedTuple):
    """Lists of some users, and why their first items stand there."""

    ranked: Ranked
    explanations: Explanations


class ListKernel:
    """``feedloop.contracts.kernel.Kernel`` over one opened build.

    ``seed`` drives exploration and the sampling of negatives. ``threads``
    (default: all that this process may use) changes the time only.
    """

    def __init__(self, build: Build, *, seed: int = 0, threads: int = 0) -> None:
        self.build = build
        self.seed = seed
        self.threads = threads or usable_cores()
        self._libraries = ThreadpoolController()
        if build.ranker is not None:
            # chunks run beside each other, so each predicts on one thread
            build.ranker.set_param({"nthread": 1})

    def lists(self, users: pa.RecordBatch, surface: str) -> pa.RecordBatch:
        """Lists (LIST_COLUMNS), one row a user in the order of ``users``.

        ``users``: USER_COLUMNS and the ranked user features. A list is as long
        as the surface asks or the catalogue allows, and empty only where no
        item is active.
        """
        found = self.build.surface(surface)
        rows = read_users(users, self.build)
        names = _rec_ids(rows.ids, surface, self.build.build_id)
        noise = _noise(names, self.seed)
        contributions = self._contributions

        def made(start: int) -> _Chunk:
            part = rows.part(start, start + USERS_A_CHUNK)
            theirs = noise[start : start + USERS_A_CHUNK]
            candidates = self._candidates(part, found, theirs)
            ranked = rank(part, candidates, self.build, found, theirs)
            return _explained(ranked, contributions)

        return self._batch(rows.ids, names, surface, self._mapped(made, len(rows)))

    def stream(
        self, reader: Iterable[pa.RecordBatch], surface: str
    ) -> Iterator[pa.RecordBatch]:
        """``lists`` for batches of any size, about 4,000 users at a time."""
        for batch in rebatched(reader, USERS_A_BATCH):
            yield self.lists(batch, surface)

    def cold_lists(self, surface: str) -> pa.RecordBatch:
        """The list (one row, user_id COLD_USER) for people of whom nothing is
        known: trending and popular items in turn, then re-ranked and explored
        like every other."""
        found = self.build.surface(surface)
        rows = read_users(unknown_user(COLD_USER, self.build), self.build)
        names = _rec_ids(rows.ids, surface, self.build.build_id)
        noise = _noise(names, self.seed)
        candidates = self._candidates(rows, found, noise)
        ranked = rank(rows, candidates, self.build, found, noise, interleaved)
        chunk = _explained(ranked, partial(what_interleaved, self.build))
        return self._batch(rows.ids, names, surface, [chunk])

    def ranked(self, users: pa.RecordBatch | pa.Table, pairs: pa.Table) -> pa.Table:
        """``pairs`` (user_id, item_id) ranked for each of ``users``: user_id,
        item_id, rank (from 1).

        The pairs are scored beside the user's own candidates, by the same
        features; consumed items too. Items that the build doesn't know are
        left out.
        """
        rows = read_users(users, self.build)
        row = positions(rows.ids, ids(pairs, "user_id"))
        item = self.build.ordinals(ids(pairs, "item_id"))
        known = (row >= 0) & (item >= 0)
        row, item = row[known], item[known]

        def made(start: int) -> pa.Table:
            mine = (row >= start) & (row < start + USERS_A_CHUNK)
            return self._ranked(
                rows.part(start, start + USERS_A_CHUNK), row[mine] - start, item[mine]
            )

        parts = self._mapped(made, len(rows))
        return pa.concat_tables([RANKED_COLUMNS.empty_table(), *parts])

    def retrieved(self, users: pa.RecordBatch | pa.Table, pairs: pa.Table) -> pa.Table:
        """RETRIEVED_COLUMNS: those of ``pairs`` (user_id, item_id) that are among
        the candidates of ``users``, by user and item."""
        rows = read_users(users, self.build)
        wanted = self._keys(rows.ids, pairs)

        def made(start: int) -> pa.Table:
            candidates = retrieve(rows.part(start, start + USERS_A_CHUNK), self.build)
            row = candidates.row + start
            keys = row * len(self.build.item_ids) + candidates.item
            at = np.flatnonzero(np.isin(keys, wanted))
            ranks = candidates.ranks[at]
            return pa.table(
                [
                    rows.ids.take(pa.array(row[at])),
                    self.build.item_ids.take(pa.array(candidates.item[at])),
                    *(
                        pa.array(rank, pa.int32(), mask=rank == NO_RANK)
                        for rank in ranks.T
                    ),
                ],
                schema=RETRIEVED_COLUMNS,
            )

        parts = self._mapped(made, len(rows))
        return pa.concat_tables([RETRIEVED_COLUMNS.empty_table(), *parts])

    def _keys(self, user_ids: pa.Array, pairs: pa.Table) -> Ints:
        """Distinct row * items + ordinal of the ``pairs`` that are known."""
        row = positions(user_ids, ids(pairs, "user_id"))
        item = self.build.ordinals(ids(pairs, "item_id"))
        known = (row >= 0) & (item >= 0)
        return np.unique(row[known] * len(self.build.item_ids) + item[known])

    def candidates_for_training(
        self, users: pa.RecordBatch | pa.Table, positives: pa.Table
    ) -> pa.Table:
        """Labelled candidates (TRAINING_COLUMNS) of the users in ``positives``.

        ``positives``: user_id, item_id. Retrieval and features are those of
        ``lists``. A positive that was not retrieved is not put in, and a user
        with none left is dropped. Of a user's other candidates a seeded sample
        of ``training_negatives`` is kept.
        """
        wanted = pc.is_in(ids(users, "user_id"), ids(positives, "user_id").unique())
        rows = read_users(users.filter(wanted), self.build)
        positive = self._keys(rows.ids, positives)
        noise = _noise(_rec_ids(rows.ids, "", self.build.build_id), self.seed)

        def made(start: int) -> pa.Table:
            stop = start + USERS_A_CHUNK
            return self._labelled(
                rows.part(start, stop), noise[start:stop], positive, start
            )

        parts = self._mapped(made, len(rows))
        return pa.concat_tables([TRAINING_COLUMNS.empty_table(), *parts])

    def _mapped(self, make: Callable[[int], _T], users: int) -> list[_T]:
        starts = range(0, users, USERS_A_CHUNK)
        # numpy's BLAS would start threads of its own in each of ours
        with self._libraries.limit(limits=1, user_api="blas"):
            if self.threads == 1 or len(starts) < 2:
                return [make(start) for start in starts]
            with ThreadPoolExecutor(self.threads) as pool:
                return list(pool.map(make, starts))

    @cached_property
    def _contributions(self) -> Contributions:
        # reads the whole ranker, so only for a kernel that makes lists
        return contributions_of(self.build)

    def _candidates(self, users: Users, surface: Surface, noise: Keys) -> Candidates:
        asked = None
        if surface.exploration_slots:
            asked = within_reach(users, self.build, noise)
        return retrieve(users, self.build, asked=asked)

    def _ranked(self, users: Users, row: Ints, item: Ints) -> pa.Table:
        build = self.build
        candidates = retrieve(users, build, asked=(row, item))
        scores = predict(build, assemble(users, candidates, build))
        width = len(build.item_ids)
        wanted = np.isin(candidates.row * width + candidates.item, row * width + item)
        at = np.flatnonzero(wanted)
        at = at[np.lexsort((candidates.item[at], -scores[at], candidates.row[at]))]
        row = candidates.row[at]
        rank = places_in(offsets_of(row, len(users))) + 1
        return pa.table(
            [
                users.ids.take(pa.array(row)),
                build.item_ids.take(pa.array(candidates.item[at])),
                pa.array(rank, pa.int32()),
            ],
            schema=RANKED_COLUMNS,
        )

    def _batch(
        self, users: pa.Array, names: Sequence[str], surface: str, made: list[_Chunk]
    ) -> pa.RecordBatch:
        if not made:
            return pa.RecordBatch.from_pylist([], schema=LIST_COLUMNS)
        chunks = [one.ranked for one in made]
        lengths = np.concatenate([chunk.lengths for chunk in chunks])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        items = pa.array(np.concatenate([chunk.items for chunk in chunks]))
        sources = pa.array(np.concatenate([chunk.sources for chunk in chunks]))
        known = np.concatenate([chunk.user_values for chunk in chunks])
        scored = np.concatenate([chunk.candidate_values for chunk in chunks])

        pools = pa.array(np.concatenate([chunk.pool_sizes for chunk in chunks]))
        expected = np.concatenate([chunk.expectations for chunk in chunks])
        names_of_features = pa.array(self.build.feature_names, pa.string())
        explained = np.concatenate([chunk.explained for chunk in chunks])
        reasons = np.concatenate([one.explanations.features for one in made])
        added = np.concatenate([one.explanations.added for one in made])
        told = np.concatenate([[0], np.cumsum(explained)]) * reasons.shape[1]

        def floats(parts: list[Floats]) -> pa.ListArray:
            return lists_of(offsets, pa.array(np.concatenate(parts), pa.float32()))

        return pa.RecordBatch.from_arrays(
            [
                pa.array(names, pa.string()),
                users,
                pa.repeat(pa.scalar(surface), len(users)),
                lists_of(offsets, self.build.item_ids.take(items)),
                floats([chunk.scores for chunk in chunks]),
                lists_of(offsets, _SOURCE_NAMES.take(sources)),
                floats([chunk.propensities for chunk in chunks]),
                lists_of(offsets, pools.cast(pa.int32())),
                lists_of(offsets * EXPECTED, pa.array(expected.ravel(), pa.float32())),
                lists_of(told, names_of_features.take(pa.array(reasons.ravel()))),
                lists_of(told, pa.array(added.ravel(), pa.float32())),
                vectors(known),
                lists_of(
                    offsets * scored.shape[1], pa.array(scored.ravel(), pa.float32())
                ),
            ],
            schema=LIST_COLUMNS,
        )

    def _labelled(
        self, users: Users, noise: Keys, positive: Ints, start: int
    ) -> pa.Table:
        build = self.build
        candidates = retrieve(users, build)
        keys = (candidates.row + start) * len(build.item_ids) + candidates.item
        label = np.isin(keys, positive)
        kept = _sampled(candidates, label, noise, build.params.training_negatives)
        features = assemble(users, candidates, build)[kept]
        return pa.table(
            [
                users.ids.take(pa.array(candidates.row[kept])),
                build.item_ids.take(pa.array(candidates.item[kept])),
                pa.array(label[kept].astype(np.float32)),
                pa.nulls(len(kept), pa.int32()),
                vectors(features),
            ],
            schema=TRAINING_COLUMNS,
        )


def _explained(ranked: Ranked, contributions: Contributions) -> _Chunk:
    return _Chunk(ranked, strongest(contributions(ranked.to_explain)))


def rebatched(reader: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """The rows of ``reader`` in batches of ``size``, the last one shorter."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in reader:
        waiting.append(batch)
        rows += len(batch)
        while rows >= size:
            whole = pa.concat_batches(waiting)
            yield whole.slice(0, size)
            waiting, rows = [whole.slice(size)], rows - size
    if rows:
        yield pa.concat_batches(waiting)


def _rec_ids(users: pa.Array, surface: str, build_id: str) -> list[str]:
    return [rec_id(user, surface, build_id) for user in users.to_pylist()]


def _noise(names: Sequence[str], seed: int) -> Keys:
    """A random 64-bit number for each rec_id and the seed."""
    digits = np.array([int(name[4:20], 16) for name in names], np.uint64)
    return mix(digits ^ mix(np.array([seed % 2**64], np.uint64)))


def _sampled(candidates: Candidates, label: Bools, noise: Keys, negatives: int) -> Ints:
    """Places of all positives and of a sample of the other candidates, for
    the users who have a positive."""
    lucky = np.zeros(len(noise), np.bool_)
    lucky[candidates.row[label]] = True
    at = np.flatnonzero(lucky[candidates.row])
    row = candidates.row[at]
    draw = mix(noise[row] ^ mix(candidates.item[at].astype(np.uint64)))
    order = np.lexsort((draw, label[at], row))
    row = row[order]
    place = places_in(np.searchsorted(row, np.arange(len(noise) + 1)))
    kept = label[at[order]] | (place < negatives)
    return np.sort(at[order[kept]])
