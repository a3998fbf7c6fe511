from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from feedloop.contracts.lists import EXPECTED
from recommender.build import Build
from recommender.exploration import chances, mix, uniform, weights_of
from recommender.kernel import EXPLORE, ListKernel
from recommender.params import KernelParams
from tests.recommender.worlds import (
    item_names,
    items_table,
    make_build,
    random_world,
    ranked_world,
    surface,
    users_batch,
    vectors_table,
)

SLOT = 7


def test_chances_are_a_softmax_with_a_floor() -> None:
    bounds = np.array([[0.1, 0.3, 0.9, 0.9], [0.0, 0.0, 0.0, 0.0]])
    allowed = np.array([[True, True, False, True], [False] * 4])
    found = chances(weights_of(bounds, 0.5), allowed, np.array([0.2, 0.2]))
    weight = np.exp(np.array([0.1, 0.3, 0.9]) / 0.5)
    expected = 0.8 * weight / weight.sum() + 0.2 / 3
    np.testing.assert_allclose(found[0, [0, 1, 3]], expected, rtol=1e-12)
    assert found[0, 2] == 0
    assert found[0].sum() == pytest.approx(1)
    assert not found[1].any()


def test_what_is_far_below_the_best_is_drawn_when_the_best_is_gone() -> None:
    bounds = np.array([[2000.0, 1.0, 1.0, -np.inf]])
    allowed = np.array([[False, True, True, False]])
    found = chances(weights_of(bounds, 0.2), allowed, np.array([0.1]))
    np.testing.assert_allclose(found, [[0, 0.5, 0.5, 0]])


def test_uniform_numbers_are_uniform_and_differ_by_slot() -> None:
    noise = mix(np.arange(20_000, dtype=np.uint64))
    for slot in range(3):
        counts, _ = np.histogram(uniform(noise, slot), bins=20, range=(0, 1))
        # 20 cells of 1,000: chi-squared with 19 degrees of freedom
        assert ((counts - 1000) ** 2 / 1000).sum() < 50
    one, other = uniform(noise, 0), uniform(noise, 1)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


def small_world(folder: Path, *, length: int = 20, cap: int = 0) -> Build:
    """24 items of two categories: the last six have few impressions. The draw is
    so even that each of a pool of four is drawn in a few hundred draws."""
    shown = [5000.0] * 18 + [1.0, 10, 100, 500, 999, 1000]
    return make_build(
        folder,
        items_table(
            24,
            categories=["a", "b"],
            item_impressions_30d=shown,
            item_ctr_30d=[0.05] * 18 + [0.05, 0.1, 0.02, 0.2, 0.01, 0.5],
        ),
        surfaces=[surface(length=length, explore=1, cap=cap)],
        params=KernelParams(explore_pool=4, explore_floor_unsure=0.5),
    )


def test_stored_probabilities_are_the_frequencies_of_what_is_drawn(
    tmp_path: Path,
) -> None:
    build = small_world(tmp_path, length=10)
    users = users_batch([{"user_id": f"u{at}"} for at in range(500)])
    drawn: Counter[str] = Counter()
    stored: dict[str, float] = {}
    draws = 0
    for seed in range(10):
        for row in ListKernel(build, seed=seed).lists(users, "home").to_pylist():
            item, chance = row["item_ids"][SLOT], row["propensities"][SLOT]
            assert row["sources"][SLOT] == EXPLORE
            assert stored.setdefault(item, chance) == chance
            drawn[item] += 1
            draws += 1
    assert sum(stored.values()) == pytest.approx(1, abs=1e-6)
    # the pool: the four highest bounds of those shown fewer than 1,000 times
    assert set(stored) == {"i0018", "i0019", "i0020", "i0021"}
    for item, chance in stored.items():
        deviation = np.sqrt(chance * (1 - chance) / draws)
        assert abs(drawn[item] / draws - chance) < 4 * deviation


def test_a_later_slots_probability_is_given_the_earlier_draw(tmp_path: Path) -> None:
    build = small_world(tmp_path)
    users = users_batch([{"user_id": f"u{at}"} for at in range(500)])
    drawn: dict[str, Counter[str]] = {}
    stored: dict[tuple[str, str], float] = {}
    for seed in range(6):
        for row in ListKernel(build, seed=seed).lists(users, "home").to_pylist():
            first, second = row["item_ids"][SLOT], row["item_ids"][SLOT + 10]
            chance = row["propensities"][SLOT + 10]
            assert stored.setdefault((first, second), chance) == chance
            drawn.setdefault(first, Counter())[second] += 1
    for first, counts in drawn.items():
        total = sum(counts.values())
        assert first not in counts
        assert sum(stored[first, item] for item in counts) == pytest.approx(1, abs=1e-6)
        for item, count in counts.items():
            chance = stored[first, item]
            deviation = np.sqrt(chance * (1 - chance) / total)
            assert abs(count / total - chance) < 4.5 * deviation


def test_the_floor_holds_and_all_else_is_certain(tmp_path: Path) -> None:
    build, users = random_world(
        tmp_path, surfaces=[surface(length=30, explore=1, cap=4)]
    )
    impressions = list(build.spec.item_features).index("item_impressions_30d")
    shown = dict(
        zip(
            build.item_ids.to_pylist(),
            build.item_values[:, impressions].tolist(),
            strict=True,
        )
    )
    floor = build.params.explore_floor / build.params.explore_pool
    for row in ListKernel(build).lists(users, "home").to_pylist():
        for position, (item, source, chance) in enumerate(
            zip(row["item_ids"], row["sources"], row["propensities"], strict=True)
        ):
            if position % 10 == SLOT:
                assert source == EXPLORE
                assert shown[item] < 1000
                assert floor <= chance < 1
            else:
                assert source != EXPLORE
                assert chance == 1


@pytest.mark.parametrize("width", [0.0, 0.5, 1000.0])
def test_what_can_not_be_better_than_the_next_best_is_not_explored(
    tmp_path: Path, width: float
) -> None:
    """Where a ranker says what is better, the slot's item is the best one that is
    left, or has a bound as high as that one's, which then leads the next block.
    With bounds high enough all slots explore."""
    build, users = ranked_world(
        tmp_path,
        surface(length=20, explore=1),
        params=KernelParams(explore_width=width),
    )
    uncertainty = dict(
        zip(build.item_ids.to_pylist(), build.uncertainty.tolist(), strict=True)
    )
    explored = []
    for row in ListKernel(build).lists(users, "home").to_pylist():
        score, next_score = (row["scores"][at] for at in (SLOT, SLOT + 3))
        bound, next_bound = (
            one + width * uncertainty[row["item_ids"][at]]
            for one, at in ((score, SLOT), (next_score, SLOT + 3))
        )
        explored.append(row["sources"][SLOT] == EXPLORE)
        assert score >= next_score or (explored[-1] and bound >= next_bound)
        if not explored[-1]:
            assert row["propensities"][SLOT] == row["pool_sizes"][SLOT] == 1
    if width == 1000:
        assert all(explored)
    else:
        assert 0 < sum(explored) < len(explored)


def test_where_everything_is_well_known_the_best_takes_the_slot(
    tmp_path: Path,
) -> None:
    build = make_build(
        tmp_path,
        items_table(12, item_impressions_30d=[5000.0] * 12),
        surfaces=[surface(length=10, explore=1)],
    )
    row = (
        ListKernel(build).lists(users_batch([{"user_id": "u"}]), "home").to_pylist()[0]
    )
    assert EXPLORE not in row["sources"]
    assert set(row["propensities"]) == {1.0}
    # nine by score, and the tenth in the slot
    assert row["item_ids"][SLOT] == "i0009"


@pytest.mark.parametrize(
    ("others", "expected"), [(["b"] * 5 + ["c"] * 5, "i0066"), (["b"] * 10, "i0005")]
)
def test_the_best_with_room_takes_the_slot_however_far_down_it_is(
    tmp_path: Path, others: list[str], expected: str
) -> None:
    """Four of the 60 best, all of one category, and four of the next fill a block
    to its ninth; where no third category has room, the best of all goes on."""
    build = make_build(
        tmp_path,
        items_table(
            70, categories=["a"] * 60 + others, item_impressions_30d=[5000.0] * 70
        ),
        surfaces=[surface(length=10, explore=1, cap=4)],
    )
    users = users_batch([{"user_id": "u"}])
    row = ListKernel(build).lists(users, "home").to_pylist()[0]
    assert row["item_ids"][:4] == ["i0000", "i0001", "i0002", "i0003"]
    assert row["item_ids"][SLOT] == expected


def test_a_slot_prefers_a_category_with_room(tmp_path: Path) -> None:
    # unknown items are of both categories; a block holds at most five of "a"
    shown = [5000.0] * 20 + [0.0] * 8
    build = make_build(
        tmp_path,
        items_table(
            28,
            categories=["a", "b"],
            item_impressions_30d=shown,
        ),
        surfaces=[surface(length=10, explore=1, cap=5)],
    )
    users = users_batch([{"user_id": f"u{at}"} for at in range(100)])
    for row in ListKernel(build).lists(users, "home").to_pylist():
        kinds = Counter(int(item[1:]) % 2 for item in row["item_ids"])
        assert max(kinds.values()) == 5


def test_the_slot_goes_to_what_the_person_may_like(tmp_path: Path) -> None:
    """Two directions of taste, with twelve well-known items each that fill the
    lists, and three that few have seen: people mostly get those of their own
    taste, and of these the less shown."""
    vectors = np.zeros((30, 2))
    vectors[[*range(12), 24, 25, 26], 0] = 1
    vectors[[*range(12, 24), 27, 28, 29], 1] = 1
    build = make_build(
        tmp_path,
        items_table(30, item_impressions_30d=[5000.0] * 24 + [0.0, 0, 900] * 2),
        item_vectors=vectors_table("item_id", item_names(30), vectors),
        surfaces=[surface(length=10, explore=1)],
        params=KernelParams(explore_reach=0),
    )
    people = [
        {"user_id": f"u{at}", "vector": [[1.0, 0.0], [0.0, 1.0]][at % 2]}
        for at in range(800)
    ]
    lists = ListKernel(build).lists(users_batch(people), "home").to_pylist()
    for at, mine in enumerate((24, 27)):
        drawn = Counter(row["item_ids"][SLOT] for row in lists[at::2])
        of_mine = [drawn[f"i{at:04d}"] for at in range(mine, mine + 3)]
        assert sum(of_mine) > 300
        assert of_mine[2] < 50 < min(of_mine[:2])


def test_every_item_with_few_impressions_is_within_someones_reach(
    tmp_path: Path,
) -> None:
    """A thousand popular items fill everyone's candidates: no source brings the
    forty unpopular ones, and yet each of them is drawn for some."""
    shown = [5000.0] * 1000 + [0.0] * 40
    build = make_build(
        tmp_path,
        items_table(1040, item_impressions_30d=shown, inactive=[1003]),
        surfaces=[surface(length=10, explore=1)],
        params=KernelParams(
            candidates=50, trending_share=0, popular_share=1.0, fresh_share=0
        ),
    )
    away = {
        "user_id": "u0",
        # every other one: some of any stretch are left
        "consumed_items": [f"i{at:04d}" for at in range(1000, 1040, 2)],
    }
    users = users_batch([away, *({"user_id": f"u{at}"} for at in range(1, 1500))])
    lists = ListKernel(build).lists(users, "home").to_pylist()
    drawn = Counter(row["item_ids"][SLOT] for row in lists)
    assert set(drawn) == {f"i{at:04d}" for at in range(1000, 1040) if at != 1003}
    for row in lists:
        assert row["sources"][SLOT] == EXPLORE
        assert 0 < row["propensities"][SLOT] <= 1
        assert row["sources"].count(EXPLORE) == 1
    for seed in range(20):
        row = (
            ListKernel(build, seed=seed).lists(users.slice(0, 1), "home").to_pylist()[0]
        )
        assert row["item_ids"][SLOT] not in away["consumed_items"]


def test_people_of_whom_little_is_known_explore_more(tmp_path: Path) -> None:
    """One item's bound stands far above the others': whoever is well known gets
    it nearly always, who is not gets the others more often."""
    build = make_build(
        tmp_path,
        items_table(
            24,
            item_impressions_30d=[5000.0] * 18 + [900.0] * 6,
            item_ctr_30d=[0.05] * 23 + [0.6],
        ),
        item_vectors=vectors_table("item_id", item_names(24), np.eye(24)),
        surfaces=[surface(length=10, explore=1)],
        params=KernelParams(
            explore_reach=0, explore_floor=0.2, explore_floor_unsure=0.6
        ),
    )
    known = {
        "vector": np.eye(24)[3].tolist(),
        "recent_items": item_names(5),
    }
    rows = [{"user_id": f"u{at}"} | (known if at < 400 else {}) for at in range(800)]
    lists = ListKernel(build).lists(users_batch(rows), "home").to_pylist()
    best = [row["item_ids"][SLOT] == "i0023" for row in lists]
    chance = {
        is_best: [
            row["propensities"][SLOT]
            for row, found in zip(lists, best, strict=True)
            if found == is_best
        ]
        for is_best in (True, False)
    }
    floor = build.params.explore_floor / 6, build.params.explore_floor_unsure / 6
    assert {round(one, 4) for one in chance[False]} == {round(one, 4) for one in floor}
    assert sum(best[:400]) > sum(best[400:]) + 60


def test_what_was_expected_of_a_draw_is_kept(tmp_path: Path) -> None:
    """By hand from the click-through of the pool's four items and the chance of
    each, which is what their draws together tell."""
    build = small_world(tmp_path, length=10)
    users = users_batch([{"user_id": f"u{at}"} for at in range(200)])
    rates = {"i0018": 0.05, "i0019": 0.1, "i0020": 0.02, "i0021": 0.2}
    rows = ListKernel(build).lists(users, "home").to_pylist()
    chance = {row["item_ids"][SLOT]: row["propensities"][SLOT] for row in rows}
    as_drawn = sum(chance[item] * rate for item, rate in rates.items())
    for row in rows:
        told = np.reshape(row["expectations"], (10, EXPECTED))
        own = rates[row["item_ids"][SLOT]]
        assert told[SLOT] == pytest.approx([own, as_drawn, 0.37 / 4], rel=1e-5)
        assert not np.delete(told, SLOT, axis=0).any()


def test_what_was_never_shown_is_thought_to_be_clicked_like_the_rest(
    tmp_path: Path,
) -> None:
    """No event, no click-through: of such an item the mean is expected, and about
    it no less is known than about one that was shown once."""
    build = make_build(
        tmp_path,
        items_table(
            5,
            item_impressions_30d=[0.0, 1, 1000, 3000, 0],
            item_ctr_30d=[0.0, 0.0875, 0.05, 0.1, 0],
        ),
    )
    mean = (0.0875 + 1000 * 0.05 + 3000 * 0.1) / 4001
    assert build.click_through == pytest.approx([mean, 0.0875, 0.05, 0.1, mean])
    never, once = build.uncertainty[:2]
    assert never == pytest.approx(once, rel=0.02)
    nothing = make_build(tmp_path / "nothing", items_table(3))
    assert np.isfinite(nothing.uncertainty).all()
    assert np.ptp(nothing.uncertainty) == 0


def test_a_slot_draws_from_what_would_else_stand_further_down(tmp_path: Path) -> None:
    """A list that holds nearly everything: the first slot gets one of the next
    best, and not what no other position wanted."""
    build = make_build(
        tmp_path,
        items_table(
            120,
            item_impressions_30d=[100.0] * 120,
            item_ctr_30d=[0.3 * 0.97**at for at in range(120)],
        ),
        surfaces=[surface(length=100, explore=1)],
        params=KernelParams(explore_reach=0),
    )
    users = users_batch([{"user_id": f"u{at}"} for at in range(300)])
    lists = ListKernel(build).lists(users, "home").to_pylist()
    drawn = [int(row["item_ids"][SLOT][1:]) for row in lists]
    assert np.median(drawn) < 20
    for row in lists:
        assert len(set(row["item_ids"])) == 100
        rest = [item for at, item in enumerate(row["item_ids"]) if at % 10 != SLOT]
        assert rest == sorted(rest)
