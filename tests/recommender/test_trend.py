"""The half-life of trends, as a stage of a run."""

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from recommender import stages
from recommender.history import INSTANT
from recommender.trend import TrendParams

NOW = datetime(2025, 1, 10, tzinfo=UTC)
PARAMS = TrendParams(
    half_life_hours=4.0, window_days=3, label_share=0.2, most_labels=1000
)
INSTANTS = pa.table(
    {
        "purpose": ["serving", "training"],
        "as_of": pa.array([NOW, NOW - timedelta(days=1)], INSTANT),
    }
)


def engagements(rows: list[tuple[str, str, float]]) -> pa.Table:
    """Rows are user, item and hours ago."""
    rows = sorted(rows, key=lambda row: -row[2])
    return pa.table(
        {
            "user_id": [user for user, _, _ in rows],
            "item_id": [item for _, item, _ in rows],
            "event_type": ["click"] * len(rows),
            "occurred_at": pa.array(
                [NOW - timedelta(hours=ago) for *_, ago in rows], INSTANT
            ),
        }
    )


def news() -> pa.Table:
    """25 items that many took a day ago, as many of the last hour that few took
    yet, and it is these that come next."""
    rows = [
        (f"u{person}", f"h{hour}-{item}", hour + person / 1000)
        for hour, people in ((24, 40), (1, 4))
        for person in range(people)
        for item in range(25)
    ]
    rows += [(f"v{person}", "h24-0", 23) for person in range(8)]
    rows += [
        (f"v{person}", f"h1-{item}", 0.1) for person in range(8) for item in (1, 2)
    ]
    return engagements(rows)


def test_the_half_life_is_chosen_and_kept_until_due() -> None:
    params = TrendParams(
        half_life_hours=12.0, window_days=3, label_share=0.01, most_labels=16
    )
    first = stages.trend(INSTANTS, news(), {}, params, None, 7)
    (row,) = first.to_pylist()
    assert row["half_life_hours"] <= 4
    assert row["trained_at"] == NOW
    tried = {float(hours): share for hours, share in json.loads(row["recall"]).items()}
    assert max(tried) == 12.0, "three days can't tell longer ones"
    assert tried[row["half_life_hours"]] == max(tried.values()) > tried[12.0]

    nothing = engagements([])
    assert stages.trend(INSTANTS, nothing, {}, params, first, 7) == first
    again = stages.trend(INSTANTS, nothing, {}, params, first, 0).to_pylist()
    assert again[0]["half_life_hours"] == 12.0


def test_without_a_past_there_is_nothing_to_choose_by() -> None:
    for rows in ([], [("u", "a", 1.0)]):
        found = stages.trend(INSTANTS, engagements(rows), {}, PARAMS, None, 7)
        assert found["half_life_hours"].to_pylist() == [4.0]
        assert found["recall"].to_pylist() == ["{}"]
