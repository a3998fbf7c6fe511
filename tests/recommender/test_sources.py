from pathlib import Path

import pyarrow as pa
import pytest

from recommender.candidates import SOURCES
from recommender.kernel import RETRIEVED_COLUMNS, ListKernel
from recommender.params import KernelParams
from recommender.sources import per_user
from tests.recommender.worlds import items_table, make_build, users_batch


def brought(user: str, item: str, **ranks: int) -> dict[str, object]:
    return {"user_id": user, "item_id": item} | ranks


def test_shares_by_hand() -> None:
    # a took x, y and z (x said twice), of which two were candidates; b took x,
    # which was none; c is not asked about
    truth = pa.table(
        {"user_id": ["a", "a", "a", "b", "a"], "item_id": ["x", "y", "z", "x", "x"]}
    )
    retrieved = pa.Table.from_pylist(
        [
            brought("a", "x", als=0, trending=7),
            brought("a", "y", popular=299),
            brought("c", "x", fresh=0),
        ],
        schema=RETRIEVED_COLUMNS,
    )
    found = per_user(retrieved.slice(0, 2), truth).to_pydict()
    assert found["user_id"] == ["a", "b"]
    assert found["from_any"] == pytest.approx([2 / 3, 0])
    assert found["from_als"] == pytest.approx([1 / 3, 0])
    assert found["only_als"] == [0, 0]
    assert found["from_popular"] == pytest.approx([1 / 3, 0])
    assert found["only_popular"] == pytest.approx([1 / 3, 0])
    assert found["from_fresh"] == [0, 0]


def test_nobody_was_given_anything() -> None:
    truth = pa.table({"user_id": ["a"], "item_id": ["x"]})
    found = per_user(RETRIEVED_COLUMNS.empty_table(), truth)
    assert found["from_any"].to_pylist() == [0]


def test_the_kernel_says_who_brought_what_was_asked_for(tmp_path: Path) -> None:
    """i0000 is both the most popular and the freshest item, i0001 the next."""
    params = KernelParams(
        candidates=8, trending_share=0, popular_share=0.25, fresh_share=0.375
    )
    build = make_build(tmp_path, items_table(40), params=params)
    people = users_batch(
        [{"user_id": "u", "consumed_items": ["i0001"]}, {"user_id": "v"}]
    )
    asked = pa.table(
        {
            "user_id": ["u", "u", "u", "v", "v", "nobody"],
            "item_id": ["i0001", "i0002", "i0039", "i0002", "unheard", "i0000"],
        }
    )
    found = ListKernel(build, threads=1).retrieved(people, asked).to_pylist()
    assert [(row["user_id"], row["item_id"]) for row in found] == [
        ("u", "i0002"),
        ("v", "i0002"),
    ]
    assert [row["popular"] for row in found] == [1, None]
    assert [row["fresh"] for row in found] == [1, 2]
    assert found[0]["als"] is None
    assert set(SOURCES) < set(found[0])
