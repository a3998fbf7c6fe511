"""Tastes learned from impressions, on worlds whose tastes are known."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recommender.arrays import Doubles
from recommender.candidates import retrieve
from recommender.features import assemble
from recommender.taste_model import TasteParams
from recommender.tastes import EVERYBODY, ITEM, TASTES, USER, learn_tastes
from recommender.users import read_users
from tests.recommender.worlds import (
    items_table,
    make_build,
    tastes_by_hand,
    users_batch,
)

DAY = date(2026, 1, 5)
PARAMS = TasteParams()
CATEGORIES = ["a", "b"]


def people_table(count: int, countries: list[str] | None = None) -> pa.Table:
    return pa.table(
        {
            "user_id": [f"u{at:03}" for at in range(count)],
            "country": countries or ["X"] * count,
            "device": ["phone"] * count,
            "referral_source": ["search"] * count,
            "declared_preferences": pa.array([None] * count, pa.list_(pa.string())),
        }
    )


def catalogue(categories: list[str], tags: list[list[str]] | None = None) -> pa.Table:
    count = len(categories)
    return pa.table(
        {
            "item_id": [f"i{at:03}" for at in range(count)],
            "category": categories,
            "tags": pa.array(tags or [[]] * count, pa.list_(pa.string())),
            "published_at": pa.array(
                [datetime(2026, 1, 1, tzinfo=UTC)] * count, pa.timestamp("us", "UTC")
            ),
            "is_active": [True] * count,
        }
    )


def events_table(
    rows: list[tuple[int, int, int | None, int]],
    dwell_ms: list[int] | None = None,
    worth: list[float] | None = None,
) -> pa.Table:
    """Person, item, position, label."""
    return pa.table(
        {
            "user_id": [f"u{user:03}" for user, *_ in rows],
            "item_id": [f"i{item:03}" for _, item, *_ in rows],
            "day": [DAY] * len(rows),
            "position": pa.array([row[2] for row in rows], pa.int32()),
            "label": pa.array([row[3] for row in rows], pa.int32()),
            "dwell_ms": pa.array(dwell_ms or [None] * len(rows), pa.int64()),
            "worth": pa.array(worth or [None] * len(rows), pa.float64()),
        }
    )


def vectors_of(tastes: pa.Table, kind: str) -> Doubles:
    """One row each, in the order of ``tastes``."""
    rows = [one for one in tastes.to_pylist() if one["entity_type"] == kind]
    return np.array([row["vector"] for row in rows])


def scores(tastes: pa.Table) -> Doubles:
    """(people, items), everybody's mean in the last row."""
    people = [vectors_of(tastes, kind) for kind in (USER, EVERYBODY)]
    return tastes_by_hand(np.vstack(people), vectors_of(tastes, ITEM))


def by_category(item: int) -> str:
    return "a" if item % 2 == 0 else "b"


def checkerboard() -> list[tuple[int, int, int | None, int]]:
    """Even people click even items, odd people odd ones; each person was shown
    two thirds of the items, at positions that tell nothing."""
    return [
        (user, item, 1 + (user // 2 + item // 2) % 10, int((user + item) % 2 == 0))
        for user in range(30)
        for item in range(24)
        if (user + 2 * item) % 3
    ]


def test_what_alike_people_click_is_liked_before_it_was_shown() -> None:
    items = catalogue(["a"] * 24)
    learned = learn_tastes(
        events_table(checkerboard()), people_table(30), items, CATEGORIES, PARAMS
    )
    liked = scores(learned)
    for user in range(30):
        unseen = [item for item in range(24) if (user + 2 * item) % 3 == 0]
        mine = [liked[user, item] for item in unseen if (user + item) % 2 == 0]
        others = [liked[user, item] for item in unseen if (user + item) % 2]
        assert min(mine) > max(others) + 1


def test_every_factor_is_found_whatever_the_seed() -> None:
    rng = np.random.default_rng(0)
    people, items, factors = 200, 80, TasteParams().factors
    taste = rng.normal(size=(people, factors))
    style = rng.normal(size=(items, factors))
    rows = []
    for user in range(people):
        shown = rng.permutation(items)[:40]
        chance = 1 / (1 + np.exp(1.5 - 0.9 * style[shown] @ taste[user]))
        clicked = rng.random(len(shown)) < chance
        for at, (item, label) in enumerate(zip(shown, clicked, strict=True)):
            rows.append((user, int(item), 1 + at % 10, int(label)))
    events, everyone = events_table(rows), people_table(people)
    for seed in range(8):
        params = TasteParams(seed=seed, alternatives=10)
        learned = learn_tastes(
            events, everyone, catalogue(["a"] * items), ["a"], params
        )
        found = vectors_of(learned, ITEM)[:, :factors]
        known = np.column_stack([found, np.ones(items)])
        rest = style - known @ np.linalg.lstsq(known, style, rcond=None)[0]
        assert (rest.var(axis=0) / style.var(axis=0)).max() < 0.25


def test_a_new_item_is_liked_by_those_who_click_its_tag() -> None:
    tags = [["even"] if item % 2 == 0 else ["odd"] for item in range(26)]
    learned = learn_tastes(
        events_table(checkerboard()),
        people_table(30),
        catalogue(["a"] * 26, tags),
        CATEGORIES,
        PARAMS,
    )
    liked = scores(learned)
    assert (liked[0:30:2, 24] > liked[0:30:2, 25]).all()
    assert (liked[1:30:2, 24] < liked[1:30:2, 25]).all()


def test_a_new_person_is_thought_to_like_what_their_country_does() -> None:
    countries = ["X" if user % 2 == 0 else "Y" for user in range(32)]
    categories = [by_category(item) for item in range(24)]
    learned = learn_tastes(
        events_table(checkerboard()),
        people_table(32, countries),
        catalogue(categories),
        CATEGORIES,
        PARAMS,
    )
    liked = scores(learned)
    assert liked[30, 0::2].mean() > liked[30, 1::2].mean()
    assert liked[31, 0::2].mean() < liked[31, 1::2].mean()


def test_an_item_that_stood_low_is_not_thought_worse_than_one_that_stood_high() -> None:
    rng = np.random.default_rng(1)
    rows: list[tuple[int, int, int | None, int]] = []
    for user in range(1200):
        # items 0 and 1 are equals; 0 nearly always stands first, where people look
        for item, high in ((0, 0.9), (1, 0.1), (2, 0.5), (3, 0.5)):
            first = rng.random() < high
            seen = rng.random() < (0.9 if first else 0.15)
            rows.append(
                (user, item, 1 if first else 20, int(seen and rng.random() < 0.2))
            )
    learned = learn_tastes(
        events_table(rows), people_table(1200), catalogue(["a"] * 4), CATEGORIES, PARAMS
    )
    (everybody,) = scores(learned)[-1:]
    raw = [
        np.mean([label for _, item, _, label in rows if item == one]) for one in (0, 1)
    ]
    assert raw[0] > 2 * raw[1]
    assert abs(everybody[0] - everybody[1]) < 0.5


def test_what_people_find_by_themselves_teaches_their_taste() -> None:
    shown: list[tuple[int, int, int | None, int]] = [(0, 0, 1, 1), (1, 0, 1, 0)]
    found: list[tuple[int, int, int | None, int]] = [
        (user, item, None, 1)
        for user in range(20)
        for item in range(10)
        if (user + item) % 2 == 0 and (user + item) % 6
    ]
    categories = [by_category(item) for item in range(10)]
    learned = learn_tastes(
        events_table(shown + found),
        people_table(20),
        catalogue(categories),
        CATEGORIES,
        PARAMS,
    )
    liked = scores(learned)
    assert (liked[0:20:2, 0::2].mean(axis=1) > liked[0:20:2, 1::2].mean(axis=1)).all()
    assert (liked[1:20:2, 0::2].mean(axis=1) < liked[1:20:2, 1::2].mean(axis=1)).all()


def test_the_order_of_rows_changes_nothing() -> None:
    events, people = events_table(checkerboard()), people_table(30)
    items = catalogue(["a", "b"] * 12)
    order = pa.array(np.random.default_rng(0).permutation(len(events)))
    one = learn_tastes(events, people, items, CATEGORIES, PARAMS)
    other = learn_tastes(
        events.take(order), people[::-1], items[::-1], CATEGORIES, PARAMS
    )
    assert one.equals(other)


def test_nothing_is_known_until_something_was_shown() -> None:
    found = events_table([(0, 0, None, 1)])
    learned = learn_tastes(found, people_table(1), catalogue(["a"]), CATEGORIES, PARAMS)
    assert learned.equals(TASTES.empty_table())


def test_someone_outside_the_catalogue_of_people_has_a_taste_too() -> None:
    learned = learn_tastes(
        events_table([(7, 0, 1, 1), (0, 0, 1, 0)]),
        people_table(1),
        catalogue(["a"]),
        CATEGORIES,
        PARAMS,
    )
    people = [one for one in learned.to_pylist() if one["entity_type"] == USER]
    assert [one["entity_id"] for one in people] == ["u000", "u007"]


def test_a_candidate_row_holds_the_taste_and_the_mean_of_whom_nobody_knows(
    tmp_path: Path,
) -> None:
    rows = [
        (EVERYBODY, "", [0.5, 0.0, 1.0, -1.0]),
        (USER, "u", [2.0, 1.0, 0.25, 0.0]),
        (ITEM, "i0000", [1.0, 3.0, 0.125, 0.0, 0.75, 1.0, 0.25]),
        (ITEM, "i0001", [0.0, 1.0, -1.0, 1.0, 1.0, 0.0, 0.0]),
    ]
    kinds, names, vectors = zip(*rows, strict=True)
    build = make_build(
        tmp_path,
        items_table(3, categories=["a", "b", "x"]),
        categories=CATEGORIES,
        tastes=pa.table([kinds, names, vectors], schema=TASTES),
    )
    at = build.feature_names.index("taste")

    def tastes(**row: object) -> list[float]:
        users = read_users(users_batch([{"user_id": "u"} | row]), build)
        candidates = retrieve(users, build)
        found = assemble(users, candidates, build)[:, at]
        return [float(found[candidates.item == item][0]) for item in range(3)]

    # of an item that isn't known yet, and of no known category, nothing
    assert tastes(taste=[2.0, 1.0, 0.25, 0.0]) == pytest.approx([5.3125, 0, 0])
    assert tastes() == pytest.approx([1.125, -1 - 1, 0])


def test_an_alternative_was_on_offer_on_the_day_of_the_choice() -> None:
    # Item 1 came out after the choices: that nobody chose it says nothing.
    items = catalogue(["a"] * 3)
    then = datetime(2026, 1, 1, tzinfo=UTC)
    dates = [then, then + timedelta(days=9), then]
    items = items.set_column(
        items.schema.get_field_index("published_at"),
        "published_at",
        pa.array(dates, pa.timestamp("us", "UTC")),
    )
    rows: list[tuple[int, int, int | None, int]] = [(0, 0, 1, 1)]
    rows += [(user, 0, None, 1) for user in range(40)]
    learned = learn_tastes(
        events_table(rows), people_table(40), items, CATEGORIES, PARAMS
    )
    (everybody,) = scores(learned)[-1:]
    assert everybody[0] > everybody[1] > everybody[2]


def test_an_item_is_of_the_category_whose_lovers_click_it() -> None:
    # what the catalogue calls "a", those click who click "b"
    categories = [by_category(item) for item in range(24)] + ["a", "a"]
    rows = checkerboard()
    rows += [(user, 24, 1 + user // 2 % 10, user % 2) for user in range(30)]
    learned = learn_tastes(
        events_table(rows), people_table(30), catalogue(categories), CATEGORIES, PARAMS
    )
    items = vectors_of(learned, ITEM)
    category, share = items[:, PARAMS.factors + 1 :][:, :2].T
    assert [CATEGORIES[int(one)] for one in category[:24]] == categories[:24]
    assert CATEGORIES[int(category[24])] == "b"
    assert share[24] > 0.5
    # of what nobody was shown, the catalogue is believed as far as it deserves
    assert CATEGORIES[int(category[25])] == "a"
    assert share[25] == pytest.approx(1 - PARAMS.mislabelled)


@pytest.mark.parametrize("signal", ["dwell_ms", "worth"])
def test_people_like_more_what_they_stay_with_or_do_more_with(signal: str) -> None:
    # everybody clicks everything; for even people it is even items, for odd odd ones
    rows = [(user, item, 1 + item % 5, 1) for user in range(30) for item in range(20)]
    rows += [(user, 20, 3, 0) for user in range(30)]
    much, little = (60_000, 5_000) if signal == "dwell_ms" else (7, 3)
    strength = [
        much if (user + item) % 2 == 0 and item < 20 else little
        for user, item, *_ in rows
    ]
    categories = [by_category(item) for item in range(21)]
    catalogued = catalogue(categories)

    def contrast(events: pa.Table) -> float:
        """How much more even people like even items than odd people do."""
        learned = learn_tastes(events, people_table(30), catalogued, CATEGORIES, PARAMS)
        liked = scores(learned)[:30, :20]
        liked -= liked.mean(axis=0)
        return float(liked[0::2, 0::2].mean() - liked[0::2, 1::2].mean())

    assert contrast(events_table(rows, **{signal: strength})) > 0.5
    assert abs(contrast(events_table(rows))) < 0.1
