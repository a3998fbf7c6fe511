from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from recommender.baselines import RECOMMENDATIONS, Als, ItemItem, Popularity, Random
from recommender.embeddings import AlsParams

NOW = datetime(2025, 1, 10, tzinfo=UTC)
ALS = Als(AlsParams(factors=4, regularization=0.1, iterations=5, alpha=5.0))


def log(rows: list[tuple[str, str, float]]) -> pa.Table:
    """Interactions from (user, item, hours ago)."""
    return pa.table(
        {
            "user_id": pa.array([user for user, _, _ in rows], pa.string()),
            "item_id": pa.array([item for _, item, _ in rows], pa.string()),
            "occurred_at": pa.array(
                [NOW - timedelta(hours=ago) for *_, ago in rows],
                pa.timestamp("us", "UTC"),
            ),
        }
    )


CLICKS = log(
    [
        *[(f"u{at}", "old", 100.0) for at in range(5)],
        *[(f"u{at}", "new", 1.0) for at in range(3)],
        ("u0", "rare", 1.0),
    ]
)


def listed(table: pa.Table) -> dict[str, list[str]]:
    assert table.schema == RECOMMENDATIONS
    found: dict[str, list[str]] = {}
    for row in table.to_pylist():
        found.setdefault(row["user_id"], []).append(row["item_id"])
        assert row["rank"] == len(found[row["user_id"]])
    return found


def users(*names: str) -> pa.Array:
    return pa.array(names, pa.string())


def test_popularity_plain_recent_and_decayed() -> None:
    plain = Popularity().recommend(CLICKS, users("x", "u3"), 2, False)
    assert listed(plain) == {"x": ["old", "new"], "u3": ["old", "new"]}
    unseen = Popularity().recommend(CLICKS, users("u3", "u0"), 2, True)
    assert listed(unseen) == {"u3": ["new", "rare"]}
    recent = Popularity(as_of=NOW, last_hours=24)
    assert listed(recent.recommend(CLICKS, users("u3"), 2, False)) == {
        "u3": ["new", "rare"]
    }
    decayed = Popularity(as_of=NOW, half_life_hours=100)
    # five halves for old, about three for new
    assert listed(decayed.recommend(CLICKS, users("u3"), 1, False)) == {"u3": ["new"]}
    with pytest.raises(ValueError, match="as_of"):
        Popularity(last_hours=24)


def test_popularity_in_a_segment_is_its_people_s() -> None:
    board = log([("a1", "x", 1), ("a2", "x", 1), ("b1", "y", 1), ("b1", "z", 1)])
    segments = pa.table(
        {"user_id": ["a1", "a2", "b1", "b2"], "segment": ["a", "a", "b", "b"]}
    )
    method = Popularity(segments=segments)
    found = listed(method.recommend(board, users("a1", "b1", "?"), 3, False))
    assert found["a1"] == ["x", "y", "z"]
    # everyone's decide only where one's own don't
    assert found["b1"] == ["y", "z", "x"]
    assert found["?"] == ["x", "y", "z"]


def test_item_item_and_als_recommend_what_people_alike_have_seen() -> None:
    board = log(
        [
            (f"u{user}", f"i{item}", 1.0)
            for user in range(8)
            for item in range(8)
            if (user + item) % 2 == 0 and user != item
        ]
    )
    for method in (ItemItem(), ALS):
        found = listed(method.recommend(board, users("u1", "u4", "x"), 1, True))
        assert (found["u1"], found["u4"]) == (["i1"], ["i4"])
        assert found["x"] == ["i0"]


def test_chance_is_seeded() -> None:
    one = Random(1).recommend(CLICKS, users("x", "u0"), 3, False)
    assert one == Random(1).recommend(CLICKS, users("x", "u0"), 3, False)
    firsts = {
        listed(Random(seed).recommend(CLICKS, users("x"), 1, False))["x"][0]
        for seed in range(30)
    }
    assert firsts == {"old", "new", "rare"}
    assert listed(Random(0).recommend(CLICKS, users("u3"), 9, True))["u3"] != ["old"]


@pytest.mark.parametrize("method", [Popularity(), ItemItem(), ALS, Random(0)])
def test_no_interactions_or_no_users(
    method: Popularity | ItemItem | Als | Random,
) -> None:
    assert len(method.recommend(CLICKS.slice(0, 0), users("x"), 3, True)) == 0
    assert len(method.recommend(CLICKS, users(), 3, True)) == 0
