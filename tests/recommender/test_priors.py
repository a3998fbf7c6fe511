"""Planted tastes of countries, sources and preferences, and who has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recommender.priors import PEOPLE, user_priors
from tests.recommender.worlds import vectors_table

Person = tuple[str, dict[str, Any], list[float] | None]
EAST, WEST, NORTH = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]


def priors(rows: list[Person]) -> dict[str, np.ndarray]:
    """The vector of everyone who gets one. Affinities are the vectors."""
    kind = pa.list_(pa.float32())
    people = pa.table(
        {
            "user_id": [name for name, *_ in rows],
            "segment": ["s"] * len(rows),
            **{
                name: pa.array([said.get(name) for _, said, _ in rows], pa.string())
                for name in ("country", "device", "referral_source")
            },
            "declared_preferences": pa.array(
                [said.get("likes") for _, said, _ in rows], pa.list_(pa.string())
            ),
            "user_category_affinity": pa.array([taste for *_, taste in rows], kind),
        }
    )
    known = [(name, taste) for name, _, taste in rows if taste is not None]
    dense = np.array([taste for _, taste in known]).reshape(-1, 3)
    mean = dense.sum(0, keepdims=True)[: len(known)] / max(len(known), 1)
    segments = vectors_table("segment", ["s"] * len(mean), mean)
    found = user_priors(
        people,
        vectors_table("user_id", [name for name, _ in known], dense),
        segments.append_column("people", pa.array([len(known)] * len(segments))),
    )
    assert np.allclose(
        [sum(row) for row in found["category_affinity"].to_pylist()], 1, atol=1e-5
    )
    return {
        row["user_id"]: np.array(row["vector"], np.float32) for row in found.to_pylist()
    }


def group(
    prefix: str, said: dict[str, Any], taste: list[float], people: int
) -> list[Person]:
    return [(f"{prefix}{at:02}", said, taste) for at in range(people)]


def leaning(vector: np.ndarray) -> int:
    return int(np.argmax(vector))


def test_a_newcomer_leans_to_what_their_country_likes() -> None:
    rows = group("e", {"country": "E"}, EAST, 30) + group(
        "w", {"country": "W"}, WEST, 30
    )
    rows += [("x", {"country": "E"}, None), ("y", {"country": "W"}, None)]
    found = priors(rows)
    assert found.keys() == {"x", "y"}
    # halfway from everyone's mean to the country's, by its 30 people
    share = 30 / (30 + PEOPLE)
    assert found["x"] == pytest.approx([0.5 + share / 2, 0.5 - share / 2, 0], abs=1e-6)
    assert leaning(found["y"]) == 1


def test_what_somebody_declared_says_more_than_their_country() -> None:
    rows = group("e", {"country": "E"}, EAST, 40)
    rows += group("n", {"country": "E", "likes": ["snow", "ice"]}, NORTH, 40)
    rows += group("w", {"country": "W"}, WEST, 40)
    rows += [("x", {"country": "W", "likes": ["snow"]}, None)]
    # of a country that nobody is from, with a preference that nobody has
    rows += [("y", {"country": "?", "likes": ["?"]}, None)]
    found = priors(rows)
    assert found["x"][2] > found["y"][2]
    assert found["x"][1] > found["x"][0]
    assert found["y"] == pytest.approx([1 / 3] * 3, abs=1e-6)


def test_a_group_of_one_hardly_moves_the_prior() -> None:
    rows = group("e", {"country": "E"}, EAST, 30)
    rows += [("w", {"country": "E", "referral_source": "ad"}, WEST)]
    rows += [("x", {"country": "E", "referral_source": "ad"}, None)]
    found = priors(rows)["x"]
    assert leaning(found) == 0
    assert found[1] < 0.35


def test_without_anybody_known_there_is_no_prior() -> None:
    assert priors([("x", {"country": "E"}, None)]) == {}
    assert priors(group("e", {}, EAST, 3)) == {}


def test_the_order_of_rows_does_not_matter() -> None:
    rows = group("e", {"country": "E", "likes": ["a"]}, EAST, 7)
    rows += [*group("w", {"country": "W"}, WEST, 9), ("x", {"likes": ["a"]}, None)]
    assert np.array_equal(priors(rows)["x"], priors(rows[::-1])["x"])
