"""The hidden world: people with tastes, items with qualities, and what the
public can see of them.

Everything is drawn from generators keyed by seed, purpose and date, so that a
day looks the same however many days are simulated before or after it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DAY_S = 86_400
STYLES = 4
"""Dimensions in which the items of one category differ."""

CATEGORIES = (
    "football",
    "cooking",
    "film",
    "technology",
    "travel",
    "music",
    "money",
    "health",
    "gaming",
    "science",
    "gardening",
    "fashion",
)
NOUNS = (
    ("match", "striker", "derby", "transfer"),
    ("supper", "loaf", "broth", "recipe"),
    ("premiere", "director", "scene", "sequel"),
    ("gadget", "chip", "robot", "update"),
    ("island", "train", "hostel", "coast"),
    ("album", "chorus", "band", "encore"),
    ("budget", "market", "pension", "invoice"),
    ("sleep", "walk", "clinic", "stretch"),
    ("level", "console", "quest", "speedrun"),
    ("comet", "genome", "glacier", "reactor"),
    ("orchid", "compost", "hedge", "harvest"),
    ("runway", "denim", "tailor", "vintage"),
)
STYLE_TAGS = (
    ("quick", "in-depth"),
    ("classic", "cutting-edge"),
    ("local", "worldwide"),
    ("calm", "bold"),
)
STYLE_WORDS = (
    ("five-minute", "complete"),
    ("timeless", "next"),
    ("neighbourhood", "global"),
    ("gentle", "daring"),
)
COUNTRIES = ("DE", "FR", "GB", "IN", "BR", "JP")
DEVICES = ("phone", "desktop", "tablet")

MISLABELLED = 0.05
"""Share of items whose public category is not their true one."""
TAG_RIGHT = 0.8
DECLARES_PREFERENCES = 0.4
DECLARED_RIGHT = 0.85
REFERRED_BY_TASTE = 0.35
TASTE_CONCENTRATION = 4.0
"""Sum of the Dirichlet parameters: low means few categories a person."""
CATALOGUE_AGE_DAYS = 30


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """Random numbers of one purpose: equal keys give equal numbers."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *key])


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


@dataclass(frozen=True)
class WorldSize:
    """How large the world is, and how it grows from day to day."""

    people: int = 700
    items: int = 500
    new_people_a_day: int = 20
    new_items_a_day: int = 30
    retired_items_a_day: int = 15


@dataclass(frozen=True)
class People:
    """One row a person, in order of sign-up.

    ``category_taste`` [people, categories], ``style_taste`` [people, STYLES]
    and ``activity`` [people], the chance to come on a day, are hidden. The
    rest is public. ``joined_day`` counts from the first day, -1 before it;
    ``joined_s`` is in seconds from the first midnight.
    """

    ids: Sequence[str]
    category_taste: Floats
    style_taste: Floats
    activity: Floats
    joined_day: Ints
    joined_s: Floats
    country: Ints
    device: Ints
    referral: Sequence[str]
    declared: Sequence[list[str]]


@dataclass(frozen=True)
class Items:
    """One row an item, in order of publication.

    ``category``, ``style`` [items, STYLES] and ``quality`` are hidden; what
    the public sees of them (``label``, ``tags``, ``titles``) is noisy; ``price``
    tells nothing.
    ``published_s`` is in seconds from the first midnight; an item can be had
    from ``published_day`` (-1: before the first day) up to, not including,
    ``retired_day``.
    """

    ids: Sequence[str]
    category: Ints
    style: Floats
    quality: Floats
    label: Ints
    price: Floats
    tags: Sequence[list[str]]
    titles: Sequence[str]
    published_day: Ints
    published_s: Floats
    retired_day: Ints


class World:
    """All people and items of ``days`` simulated days from ``start`` on."""

    def __init__(
        self, seed: int, start: date, days: int, size: WorldSize | None = None
    ) -> None:
        self.seed = seed
        self.start = start
        self.days = days
        self.size = size or WorldSize()
        self.people = self._people()
        self.items = self._items()

    def instant(self, second: float) -> datetime:
        """The instant ``second`` seconds after the first midnight."""
        return midnight(self.start) + timedelta(seconds=float(second))

    def date(self, day: int) -> date:
        return self.start + timedelta(days=day)

    # --- what is there on a day ---------------------------------------------

    def population(self, day: int) -> int:
        """How many have signed up before ``day`` is over: the first rows."""
        return int(np.count_nonzero(self.people.joined_day <= day))

    def catalogue(self, day: int) -> int:
        """How many items were published before ``day`` is over: the first
        rows, those included that are gone by then."""
        return int(np.count_nonzero(self.items.published_day <= day))

    def on_offer(self, day: int) -> Bools:
        """[items] What can be found at some time of ``day``."""
        return (self.items.published_day <= day) & (self.items.retired_day > day)

    def known_in_the_morning(self, day: int) -> Bools:
        """[items] What a list made at the midnight before ``day`` may hold."""
        return (self.items.published_day < day) & (self.items.retired_day > day)

    # --- the public face -----------------------------------------------------

    def item_record(self, item: int, *, is_active: bool) -> dict[str, Any]:
        """What the app's catalogue says of an item."""
        items = self.items
        return {
            "item_id": items.ids[item],
            "category": CATEGORIES[items.label[item]],
            "published_at": self.instant(items.published_s[item]).isoformat(),
            "is_active": is_active,
            "title": items.titles[item],
            "tags": items.tags[item],
            "metadata": {"price": float(items.price[item])},
        }

    def user_record(self, person: int) -> dict[str, Any]:
        """What the app knows of a person from the sign-up."""
        people = self.people
        return {
            "user_id": people.ids[person],
            "created_at": self.instant(people.joined_s[person]).isoformat(),
            "country": COUNTRIES[people.country[person]],
            "device": DEVICES[people.device[person]],
            "referral_source": people.referral[person],
            "declared_preferences": people.declared[person],
        }

    # --- drawing it ----------------------------------------------------------

    def _category_popularity(self) -> Floats:
        """[countries, categories] How much a country likes a category."""
        rng = generator(self.seed, "categories")
        base = 1.0 / np.arange(1, len(CATEGORIES) + 1) ** 0.5
        shift = rng.lognormal(0.0, 0.5, (len(COUNTRIES), len(CATEGORIES)))
        liked: Floats = base * shift
        liked /= liked.sum(axis=1, keepdims=True)
        return liked

    def _people(self) -> People:
        ids: list[str] = []
        referral: list[str] = []
        declared: list[list[str]] = []
        columns: list[tuple[NDArray[Any], ...]] = []
        popularity = self._category_popularity()
        for day in range(-1, self.days):
            when = self.date(day)
            size = self.size.people if day < 0 else self.size.new_people_a_day
            key = () if day < 0 else (when.toordinal(),)
            rng = generator(self.seed, "people", *key)
            country = rng.integers(len(COUNTRIES), size=size)
            mixture = np.array(
                [rng.dirichlet(TASTE_CONCENTRATION * popularity[c]) for c in country]
            ).reshape(size, len(CATEGORIES))
            taste = np.clip(np.log(mixture * len(CATEGORIES) + 0.05), -2.5, 2.5)
            style = rng.normal(0.0, 0.5, (size, STYLES))
            activity = np.clip(rng.gamma(2.5, 0.2, size), 0.05, 0.95)
            device = rng.choice(len(DEVICES), size=size, p=(0.7, 0.22, 0.08))
            if day < 0:
                ids += [f"usr_{self.seed}_{n:05}" for n in range(size)]
                joined = -np.sort(rng.uniform(0, CATALOGUE_AGE_DAYS, size))[::-1]
                joined_s = joined * DAY_S
            else:
                ids += [f"usr_{self.seed}_{when:%Y%m%d}_{n:03}" for n in range(size)]
                # Before the evening, so that newcomers can look around.
                joined_s = (day + np.sort(rng.uniform(0.3, 0.8, size))) * DAY_S
            for likes in mixture:
                referral.append(self._referral(rng, likes))
                declared.append(self._declared(rng, likes))
            columns.append(
                (
                    taste,
                    style,
                    activity,
                    np.full(size, day),
                    joined_s,
                    country,
                    device,
                )
            )
        taste, style, activity, joined_day, joined_s, country, device = (
            np.concatenate(column) for column in zip(*columns, strict=True)
        )
        return People(
            ids,
            taste,
            style,
            activity,
            joined_day,
            joined_s,
            country,
            device,
            referral,
            declared,
        )

    @staticmethod
    def _referral(rng: np.random.Generator, likes: Floats) -> str:
        if rng.random() < REFERRED_BY_TASTE:
            return f"partner-{CATEGORIES[rng.choice(len(likes), p=likes)]}"
        return str(rng.choice(("search", "friend", "social")))

    @staticmethod
    def _declared(rng: np.random.Generator, likes: Floats) -> list[str]:
        if rng.random() >= DECLARES_PREFERENCES:
            return []
        favourites = np.argsort(-likes, kind="stable")[:2]
        said = [
            favourite if rng.random() < DECLARED_RIGHT else rng.integers(len(likes))
            for favourite in favourites
        ]
        return sorted({CATEGORIES[category] for category in said})

    def _items(self) -> Items:
        ids: list[str] = []
        tags: list[list[str]] = []
        titles: list[str] = []
        columns: list[tuple[NDArray[Any], ...]] = []
        for day in range(-1, self.days):
            when = self.date(day)
            size = self.size.items if day < 0 else self.size.new_items_a_day
            key = () if day < 0 else (when.toordinal(),)
            rng = generator(self.seed, "items", *key)
            category = rng.integers(len(CATEGORIES), size=size)
            style = rng.normal(0.0, 1.0, (size, STYLES))
            quality = rng.normal(0.0, 1.0, size)
            wrong = rng.random(size) < MISLABELLED
            label = np.where(wrong, rng.integers(len(CATEGORIES), size=size), category)
            if day < 0:
                ids += [f"item_{self.seed}_{n:05}" for n in range(size)]
                published = -np.sort(rng.uniform(0, CATALOGUE_AGE_DAYS, size))[::-1]
                published_s = published * DAY_S
            else:
                ids += [f"item_{self.seed}_{when:%Y%m%d}_{n:03}" for n in range(size)]
                published_s = (day + np.sort(rng.uniform(0.25, 0.75, size))) * DAY_S
            for row in range(size):
                words, title = self._describe(rng, int(label[row]), style[row])
                tags.append(words)
                titles.append(title)
            price = np.round(rng.uniform(3, 60, size), 2)
            days = np.full(size, day)
            columns.append((category, style, quality, label, price, days, published_s))
        category, style, quality, label, price, published_day, published_s = (
            np.concatenate(column) for column in zip(*columns, strict=True)
        )
        retired_day = self._retirements(published_day)
        return Items(
            ids,
            category,
            style,
            quality,
            label,
            price,
            tags,
            titles,
            published_day,
            published_s,
            retired_day,
        )

    @staticmethod
    def _describe(
        rng: np.random.Generator, label: int, style: Floats
    ) -> tuple[list[str], str]:
        """Tags and title, which lean towards the item's style."""
        noun = str(rng.choice(NOUNS[label]))
        tags = [noun]
        words = []
        for dimension in np.argsort(-np.abs(style), kind="stable")[:2]:
            side = int(style[dimension] > 0)
            if rng.random() >= TAG_RIGHT:
                side = 1 - side
            tags.append(STYLE_TAGS[dimension][side])
            words.append(STYLE_WORDS[dimension][side])
        return tags, f"The {' '.join(words)} {noun} of {CATEGORIES[label]}".capitalize()

    def _retirements(self, published_day: Ints) -> Ints:
        """[items] The first day on which each is gone.

        Some leave every evening, the same for everyone from the next midnight
        on; never so many that a page of twenty could not be filled.
        """
        never = np.iinfo(np.int64).max
        retired_day = np.full(len(published_day), never)
        for day in range(self.days):
            rng = generator(self.seed, "retire", self.date(day).toordinal())
            there = np.flatnonzero((published_day < day) & (retired_day == never))
            leaving = min(self.size.retired_items_a_day, max(0, len(there) - 50))
            gone = rng.choice(there, size=leaving, replace=False)
            retired_day[gone] = day + 1
        return retired_day
