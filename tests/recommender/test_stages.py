"""When a stage trains again, and when it keeps what it has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from recommender import stages
from recommender.arrays import numbers, vectors
from recommender.build import candidate_features
from recommender.candidates import SOURCES
from recommender.embeddings import AlsParams, train_item_factors
from recommender.history import INSTANT
from recommender.params import KernelParams
from recommender.ranking import RankerParams
from tests.recommender.worlds import FEATURES

NOW = datetime(2025, 1, 10, tzinfo=UTC)
NAMES = candidate_features(FEATURES)


def instants(as_of: datetime) -> pa.Table:
    return pa.table({"purpose": ["serving"], "as_of": pa.array([as_of], INSTANT)})


def examples(groups: int, *, shown: bool = True) -> pa.Table:
    rows = 4 * groups
    values = np.random.default_rng(1).random((rows, len(NAMES))).astype(np.float32)
    position = np.arange(rows) % 4 + 1
    return pa.table(
        {
            "group_id": [str(row // 4) for row in range(rows)],
            "item_id": [str(row) for row in range(rows)],
            "position": pa.array(position, pa.int32(), mask=np.full(rows, not shown)),
            "label": pa.array(position == 2, pa.float32()),
            "feature_names": [NAMES] * rows,
            "feature_values": vectors(values),
        }
    )


@pytest.mark.parametrize(
    ("later", "groups", "shown", "trains"),
    [
        (timedelta(days=1), 20, False, False),
        (timedelta(days=1), 29, False, False),
        (timedelta(days=1), 30, False, True),
        (timedelta(days=1), 20, True, True),
        (timedelta(days=7), 20, False, True),
    ],
    ids=["nothing new", "a little", "half as much again", "a log", "a week"],
)
def test_a_ranker_is_trained_again_when_outgrown(
    later: timedelta, groups: int, shown: bool, trains: bool
) -> None:
    def ranker(as_of: datetime, rows: pa.Table, previous: pa.Table | None) -> pa.Table:
        params = RankerParams(rounds=2)
        return stages.ranker(instants(as_of), rows, FEATURES, params, 1, previous, 7)

    first = ranker(NOW, examples(20, shown=False), None)
    again = ranker(NOW + later, examples(groups, shown=shown), first)
    expected = NOW + later if trains else NOW
    assert again["trained_at"].to_pylist() == [expected]


@pytest.mark.parametrize(("more", "trains"), [(1, False), (2, True)])
def test_factors_are_trained_again_when_items_lack_them(
    more: int, trains: bool
) -> None:
    def factors(as_of: datetime, items: int, previous: pa.Table | None) -> pa.Table:
        log = pa.table(
            {
                "purpose": ["serving"] * items,
                "user_id": [f"u{item % 3}" for item in range(items)],
                "item_id": [f"i{item}" for item in range(items)],
                "confidence": [1.0] * items,
            }
        )
        params = AlsParams(factors=2, iterations=1)

        def train(purpose: str) -> pa.Table:
            return train_item_factors(stages.of_purpose(log, purpose), params)

        asked = log.select(["purpose", "item_id"])
        return stages.item_factors(instants(as_of), asked, train, "", previous, 7)

    first = factors(NOW, 10, None)
    again = factors(NOW + timedelta(days=1), 10 + more, first)
    assert len(again) == (10 + more if trains else 10)


def test_a_ranker_comes_with_quotas_for_the_lists_after_it() -> None:
    """All that was taken came from one source, which then brings more."""
    rows = examples(400)
    source = NAMES.index("from_trending")
    values = np.zeros((len(rows), len(NAMES)), np.float32)
    values[:, [NAMES.index(f"from_{one}") for one in SOURCES]] = 1
    values[numbers(rows, "label", 0) > 0] = 0
    values[:, source] = 1
    rows = rows.set_column(
        rows.schema.get_field_index("feature_values"), "feature_values", vectors(values)
    )
    given = KernelParams(candidates=200)
    found = stages.ranker(
        instants(NOW), rows, FEATURES, RankerParams(rounds=2), 1, None, 7
    )
    applied = stages.quotas_in_force(given, found)
    assert applied.trending_share > given.trending_share
    assert applied.als_share < given.als_share
    assert applied.candidates == 200
    assert stages.quotas_in_force(given, stages.RANKER_SCHEMA.empty_table()) == given
