"""The first lists of simulated newcomers, beside what is popular in their country."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recommender.arrays import matrix, vectors
from recommender.embeddings import AlsParams, fold_in_users, train_item_factors
from recommender.kernel import ListKernel
from recommender.metrics import interval
from recommender.priors import user_priors
from simulator.choice import PAGE, ChoiceModel, chance
from simulator.pages import Morning, popularity_pages
from simulator.world import CATEGORIES, COUNTRIES, DEVICES, World, WorldSize
from tests.recommender.worlds import (
    item_names,
    items_table,
    make_build,
    surface,
    users_batch,
)

DAYS, CAP, CLICKS = 7, 4, 12


class Town:
    """A simulated world in which those who were there before the first day have
    clicked what appeals to them, and newcomers nothing."""

    def __init__(self, seed: int) -> None:
        size = WorldSize(600, 300, 30, new_items_a_day=1, retired_items_a_day=0)
        self.world = World(seed, date(2026, 1, 5), DAYS, size)
        self.people = self.world.people
        self.everyone = np.arange(len(self.people.ids))
        self.items = self.world.catalogue(DAYS - 1)
        self.appeal = ChoiceModel().appeal(self.world, DAYS, self.everyone)
        self.newcomers = np.flatnonzero(self.people.joined_day >= 0)
        settled = np.flatnonzero(self.people.joined_day < 0)
        luck = np.random.default_rng(seed).gumbel(size=(len(settled), self.items))
        liked = 1.1 * self.appeal[settled, : self.items] + luck
        self.item = np.argsort(-liked, axis=1)[:, :CLICKS].ravel()
        self.user = np.repeat(settled, CLICKS)
        self.names = np.array(item_names(self.items))

    def earned(self, pages: np.ndarray) -> np.ndarray:
        """(newcomers,): the expected clicks a position of their page."""
        wanted = np.take_along_axis(self.appeal[self.newcomers], pages, axis=1)
        return (ChoiceModel().examination() * chance(wanted)).mean(axis=1)

    def popular_in_country(self) -> np.ndarray:
        country = self.people.country
        nothing = np.zeros((len(self.everyone), len(self.world.items.ids)), bool)
        everyones = np.bincount(self.item, minlength=nothing.shape[1])
        pages = np.zeros((len(self.everyone), PAGE), np.int64)
        for one in range(len(COUNTRIES)):
            theirs = self.item[country[self.user] == one]
            # everyone's clicks decide only where the country's don't
            clicks = 1000 * np.bincount(theirs, minlength=nothing.shape[1]) + everyones
            people = np.flatnonzero(country == one)
            morning = Morning(DAYS, nothing, nothing, clicks)
            pages[people] = popularity_pages(self.world, morning, people, CAP)
        return pages[self.newcomers]

    def listed(self, folder: Path) -> np.ndarray:
        """Newcomers' first PAGE items, without a ranker."""
        clicks = pa.table(
            {
                "user_id": [self.people.ids[one] for one in self.user],
                "item_id": self.names[self.item],
                "confidence": np.ones(len(self.user)),
            }
        )
        params = AlsParams(factors=16)
        factors = train_item_factors(clicks, params)
        users = fold_in_users(clicks, factors, params)
        dense, _ = matrix(users["vector"].combine_chunks())
        segments = pa.table(
            {
                "segment": ["everyone"],
                "people": [len(dense)],
                "vector": vectors(dense.mean(axis=0, keepdims=True)),
            }
        )
        priors = user_priors(self._people(), users, segments)
        count = np.bincount(self.item, minlength=self.items).astype(float)
        items = items_table(
            self.items,
            item_popularity_1d=count,
            item_popularity_7d=count,
            item_popularity_30d=count,
            item_trending=count,
            category=[CATEGORIES[at] for at in self.world.items.label[: self.items]],
        )
        build = make_build(
            folder,
            items,
            item_vectors=factors,
            surfaces=[surface(length=PAGE, cap=CAP)],
        )
        rows = priors.rename_columns({"category_affinity": "user_category_affinity"})
        lists = ListKernel(build).lists(users_batch(rows.to_pylist()), "home")
        found = {row["user_id"]: row["item_ids"] for row in lists.to_pylist()}
        at = {name: place for place, name in enumerate(self.names)}
        return np.array(
            [
                [at[item] for item in found[self.people.ids[one]]]
                for one in self.newcomers
            ]
        )

    def _people(self) -> pa.Table:
        people = self.people
        share = np.zeros((len(self.everyone), len(CATEGORIES)))
        label = self.world.items.label[self.item]
        np.add.at(share, (self.user, label), 1 / CLICKS)
        return pa.table(
            {
                "user_id": people.ids,
                "segment": ["everyone"] * len(self.everyone),
                "country": [COUNTRIES[one] for one in people.country],
                "device": [DEVICES[one] for one in people.device],
                "referral_source": people.referral,
                "declared_preferences": pa.array(
                    people.declared, pa.list_(pa.string())
                ),
                "user_category_affinity": pa.array(
                    [row.tolist() if row.any() else None for row in share],
                    pa.list_(pa.float32()),
                ),
            }
        )


@pytest.mark.parametrize("seed", [4, 5])
def test_newcomers_click_more_than_on_what_is_popular_in_their_country(
    tmp_path: Path, seed: int
) -> None:
    town = Town(seed)
    lead = town.earned(town.listed(tmp_path)) - town.earned(town.popular_in_country())
    assert len(lead) == 30 * DAYS
    low, _ = interval(lead[:, None], seed)
    assert low[0] > 0
