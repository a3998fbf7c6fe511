from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.build import UNIT, Build
from recommender.candidates import (
    ALS,
    EASE,
    FRESH,
    ITEM_ITEM,
    POPULAR,
    TASTE,
    TRENDING,
    Candidates,
    retrieve,
)
from recommender.pairs import MOST_ROWS
from recommender.params import KernelParams
from recommender.taste_vectors import of_items
from recommender.tastes import EVERYBODY, ITEM, TASTES
from recommender.users import read_users
from tests.recommender.worlds import (
    item_names,
    items_table,
    make_build,
    random_world,
    surface,
    tastes_by_hand,
    users_batch,
    vectors_table,
)


def found(build: Build, **row: Any) -> Candidates:
    return retrieve(read_users(users_batch([{"user_id": "u"} | row]), build), build)


def names(build: Build, candidates: Candidates) -> list[str]:
    return build.item_ids.take(pa.array(candidates.item)).to_pylist()


def test_each_source_brings_what_it_should(tmp_path: Path) -> None:
    count = 40
    popularity = np.arange(count, 0, -1.0)
    build = make_build(
        tmp_path,
        items_table(
            count,
            item_trending=np.roll(popularity, 10),
            item_popularity_1d=np.roll(popularity, 10),
            item_popularity_30d=popularity,
        ).set_column(
            2,
            "published_at",
            pa.array(np.roll(np.arange(count), 21), pa.timestamp("us", "UTC")),
        ),
        item_vectors=vectors_table(
            "item_id", item_names(count), np.eye(count)[:, :32] + np.eye(count)[:, 8:]
        ),
        neighbours=pa.table(
            {
                "item_id": ["i0030", "i0030", "i0031"],
                "neighbour_id": ["i0034", "i0035", "i0035"],
                "score": [0.5, 0.4, 0.4],
            }
        ),
        surfaces=[surface(length=1)],
        params=KernelParams(
            candidates=20,
            als_share=0.1,
            item_item_share=0.1,
            taste_share=0,
            trending_share=0.1,
            popular_share=0.1,
            fresh_share=0.05,
        ),
    )
    vector = np.zeros(32)
    vector[31] = 1
    got = found(build, vector=vector, recent_items=["i0030", "nowhere", "i0031"])
    by_source = {
        source: dict(zip(names(build, got), got.ranks[:, source].tolist(), strict=True))
        for source in (ALS, ITEM_ITEM, TRENDING, POPULAR, FRESH)
    }
    ranked = {
        source: {name: rank for name, rank in ranks.items() if rank >= 0}
        for source, ranks in by_source.items()
    }
    assert ranked[ALS] == {"i0039": 0, "i0031": 1}
    assert ranked[ITEM_ITEM] == {"i0035": 0, "i0034": 1}
    assert ranked[TRENDING] == {"i0010": 0, "i0011": 1}
    assert ranked[FRESH] == {"i0020": 0}
    # what lacks to 20 is filled up in the popular order
    others = {"i0039", "i0031", "i0034", "i0035", "i0020"}
    assert set(ranked[POPULAR]) == set(item_names(15)) - {"i0010", "i0011"}
    assert set(names(build, got)) == set(ranked[POPULAR]) | others | {"i0010", "i0011"}
    score = dict(zip(names(build, got), got.item_item_score.tolist(), strict=True))
    assert score["i0034"] == pytest.approx(0.5)
    assert score["i0035"] == pytest.approx(0.4 + 0.4 * 0.5 ** (1 / 7))


def test_weights_of_the_newest_items_are_added_up(tmp_path: Path) -> None:
    """By hand: two items weigh on four, of which one is inactive, one consumed
    and one is less likely for it."""
    build = make_build(
        tmp_path,
        items_table(20, inactive=[7]),
        weights=pa.table(
            {
                "item_id": ["i0001", "i0001", "i0001", "i0001", "i0002", "i0002"],
                "other_id": ["i0005", "i0006", "i0007", "i0008", "i0005", "i0009"],
                "weight": [0.2, 0.5, 0.9, 0.4, 0.3, -0.3],
            }
        ),
        params=KernelParams(candidates=20, ease_share=0.1, taste_share=0),
    )
    got = found(
        build,
        recent_items=["i0001", "i0003", "i0002"],
        consumed_items=["i0001", "i0002", "i0003", "i0008"],
    )
    ranks = dict(zip(names(build, got), got.ranks[:, EASE].tolist(), strict=True))
    score = dict(zip(names(build, got), got.ease_score.tolist(), strict=True))
    assert {name: rank for name, rank in ranks.items() if rank >= 0} == {
        "i0006": 0,
        "i0005": 1,
    }
    older = 0.5 ** (2 / build.params.recent_half_life)
    assert score["i0005"] == pytest.approx(0.2 + 0.3 * older)
    assert score["i0006"] == pytest.approx(0.5)
    assert score["i0009"] == pytest.approx(-0.3 * older)
    assert score["i0004"] == 0
    assert not {"i0007", "i0008"} & set(score)


def tastes_table(count: int) -> pa.Table:
    """Two factors, a bias and one or two of the categories a and b for each item;
    everybody likes b."""
    rng = np.random.default_rng(0)
    factors, bias = rng.normal(size=(count, 2)), rng.normal(size=count)
    label, share = np.arange(count) % 2, rng.choice([0.5, 1.0], count)
    items = of_items(
        factors,
        bias,
        np.column_stack([label, 1 - label]),
        np.column_stack([share, 1 - share]),
    )
    kinds = [EVERYBODY] + [ITEM] * count
    everybody = np.array([0.0, 0.0, 0.0, 2.0])
    return pa.table(
        [kinds, ["", *item_names(count)], [everybody, *items]], schema=TASTES
    )


def liked(tastes: pa.Table, taste: list[float]) -> dict[str, float]:
    items = tastes.slice(1)
    scores = tastes_by_hand(np.array([taste]), np.array(items["vector"].to_pylist()))
    return dict(zip(items["entity_id"].to_pylist(), scores[0].tolist(), strict=True))


def test_taste_brings_what_is_likeliest_to_be_clicked(tmp_path: Path) -> None:
    tastes = tastes_table(400)
    build = make_build(
        tmp_path,
        items_table(400, categories=["a", "b"], inactive=[5]),
        tastes=tastes,
        params=KernelParams(candidates=20, taste_share=0.25),
    )
    for taste in ([1.0, -2.0, 0.5, 0.0], [-1.0, 0.5, 0.0, -1.0], None):
        score = liked(tastes, taste or [0.0, 0.0, 0.0, 2.0])
        best = sorted(score.keys() - {"i0005"}, key=lambda name: -score[name])
        got = found(build, taste=taste, consumed_items=best[:1])
        ranks = dict(zip(names(build, got), got.ranks[:, TASTE].tolist(), strict=True))
        brought = {name: rank for name, rank in ranks.items() if rank >= 0}
        assert sorted(brought, key=brought.__getitem__) == best[1:6]


def test_of_many_items_taste_searches_those_that_somebody_likes(tmp_path: Path) -> None:
    tastes = tastes_table(400)
    build = make_build(
        tmp_path,
        items_table(400, categories=["a", "b"]),
        tastes=tastes,
        params=KernelParams(candidates=40, taste_share=0.25, exact_up_to=100),
    )
    assert len(build.tasted_items) == 100
    rng = np.random.default_rng(1)
    recall = []
    for _ in range(20):
        taste = rng.normal(size=4).tolist()
        score = liked(tastes, taste)
        best = sorted(score, key=lambda name: -score[name])[:10]
        got = found(build, taste=taste)
        brought = np.array(names(build, got))[got.ranks[:, TASTE] >= 0]
        assert len(brought) == 10
        recall.append(len(set(best) & set(brought.tolist())) / 10)
    # a quarter of the items at random would hold a quarter of them
    assert np.mean(recall) > 0.6


def test_while_no_tastes_are_known_the_others_have_their_part(tmp_path: Path) -> None:
    shares = KernelParams(
        candidates=40,
        als_share=0,
        item_item_share=0,
        ease_share=0,
        taste_share=0.5,
        trending_share=0.25,
        popular_share=0.125,
        fresh_share=0.125,
    )
    trending = np.arange(60, 0, -1.0)
    counts = {}
    for name, tastes in {"without": None, "with": tastes_table(60)}.items():
        build = make_build(
            tmp_path / name,
            items_table(
                60,
                categories=["a", "b"],
                item_trending=trending,
                item_popularity_1d=trending,
            ),
            tastes=tastes,
            params=shares,
        )
        brought = (found(build).ranks >= 0).sum(axis=0)
        counts[name] = brought[[TASTE, TRENDING, FRESH]].tolist()
    assert counts == {"without": [0, 20, 10], "with": [20, 10, 5]}


@pytest.mark.parametrize("longest", [0, 200])
def test_index_and_exact_search_agree(tmp_path: Path, longest: int) -> None:
    exact, users = random_world(
        tmp_path / "a", items=600, params=KernelParams(candidates=100)
    )
    indexed, _ = random_world(
        tmp_path / "b",
        items=600,
        params=KernelParams(candidates=100, exact_up_to=longest),
    )
    assert exact.index is None
    assert indexed.index is not None
    assert len(indexed.longest_items) == longest
    assert len(indexed.index) == len(indexed.vector_items) - longest
    one = retrieve(read_users(users, exact), exact)
    other = retrieve(read_users(users, indexed), indexed)

    def nearest(got: Candidates) -> set[tuple[int, int]]:
        brought = got.ranks[:, ALS] >= 0
        return set(
            zip(got.row[brought].tolist(), got.item[brought].tolist(), strict=True)
        )

    assert len(nearest(one) & nearest(other)) >= 0.97 * len(nearest(one))


def test_the_cosine_is_the_cosine(tmp_path: Path) -> None:
    build, users = random_world(tmp_path)
    rows = read_users(users, build)
    got = retrieve(rows, build)
    theirs = rows.vectors[got.row].astype(float)
    items = np.asarray(build.item_vectors)[got.item].astype(float)
    expected = (theirs * items).sum(axis=1) / UNIT**2
    np.testing.assert_allclose(got.als_cosine, expected, atol=1e-6)


def test_who_has_consumed_everything_gets_it_again(tmp_path: Path) -> None:
    build = make_build(tmp_path, items_table(4, inactive=[0]))
    most = found(build, consumed_items=["i0001", "i0003"])
    assert names(build, most) == ["i0002"]
    everything = found(build, consumed_items=item_names(4))
    assert names(build, everything) == ["i0001", "i0002", "i0003"]


def test_there_are_as_many_candidates_as_the_longest_list_needs(
    tmp_path: Path,
) -> None:
    build = make_build(
        tmp_path,
        items_table(50),
        surfaces=[surface("short", length=5), surface("long", length=40)],
        params=KernelParams(candidates=10),
    )
    assert len(found(build)) == 40


def test_a_call_takes_only_so_many_users(tmp_path: Path) -> None:
    build, _ = random_world(tmp_path)
    batch = users_batch([{"user_id": f"u{at}"} for at in range(MOST_ROWS + 1)])
    with pytest.raises(ValueError, match="512"):
        retrieve(read_users(batch, build), build)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> list[Build]:
    return [
        random_world(
            tmp_path_factory.mktemp(f"world{exact}"),
            items=60,
            params=KernelParams(candidates=20, exact_up_to=exact),
        )[0]
        for exact in (0, 20, 100)
    ]


@settings(deadline=None, max_examples=60)
@given(
    which=st.integers(0, 2),
    histories=st.lists(
        st.tuples(
            st.lists(st.integers(0, 65), max_size=70),
            st.lists(st.integers(0, 65), max_size=10),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_candidates_are_distinct_active_unconsumed_and_enough(
    worlds: list[Build],
    which: int,
    histories: list[tuple[list[int], list[int], bool]],
) -> None:
    build = worlds[which]
    rows = [
        {
            "user_id": f"u{at}",
            "consumed_items": [f"i{item:04d}" for item in consumed],
            "recent_items": [f"i{item:04d}" for item in recent],
            "vector": np.cos(np.arange(8) + at).tolist() if has_vector else None,
        }
        for at, (consumed, recent, has_vector) in enumerate(histories)
    ]
    got = retrieve(read_users(users_batch(rows), build), build)
    active = set(build.item_ids[: build.active_count].to_pylist())
    for at, (consumed, _, _) in enumerate(histories):
        part = slice(got.offsets[at], got.offsets[at + 1])
        mine = build.item_ids.take(pa.array(got.item[part])).to_pylist()
        left = active - {f"i{item:04d}" for item in consumed}
        assert len(mine) == len(set(mine))
        assert len(mine) == min(20, len(left or active))
        assert set(mine) <= (left or active)
        assert (got.row[part] == at).all()
        assert (got.ranks[part] >= 0).any(axis=1).all()
