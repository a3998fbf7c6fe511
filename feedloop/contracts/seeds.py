"""The seeds as Python sees them: event types, features and surfaces.

Each is declared once, as a CSV in ``seeds/`` that dbt loads as a table; these
readers give code the same rows.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from feedloop.errors import SeedError

Role = Literal["exposure", "engagement", "conversion", "negative", "neutral"]


class EventType(msgspec.Struct, frozen=True):
    """One row of ``event_types.csv``."""

    event_type: str
    role: Role
    weight: float
    half_life_days: Annotated[float, Meta(gt=0)]
    is_label: bool


class Feature(msgspec.Struct, frozen=True):
    """One row of ``feature_registry.csv``.

    ``default_value`` fills every element where an entity has no value;
    ``width`` is the number of elements, 0 where the data decides (a vector
    with one element a category, say); ``ranked`` says that the ranker reads it.
    """

    feature_name: str
    entity_type: Literal["user", "item"]
    path: Literal["batch", "stream", "both"]
    width: Annotated[int, Meta(ge=0)]
    default_value: float
    ttl_seconds: Annotated[int, Meta(ge=0)]
    freshness_hours: Annotated[int, Meta(ge=1)]
    ranked: bool
    owner: str
    meaning: str


class Surface(msgspec.Struct, frozen=True):
    """One row of ``surfaces.csv``.

    ``exploration_slots`` counts slots in ten positions: 1 reserves every
    position p (from 1) with p ≡ 8 mod 10. ``diversity_cap`` is the most items
    of one category in ten positions, 0 for no cap.
    """

    surface: str
    list_length: Annotated[int, Meta(ge=1, le=1000)]
    ttl_hours: Annotated[int, Meta(ge=1)]
    eligibility: Literal["active"]
    repeat_policy: Annotated[str, Meta(pattern=r"^(never|always|after:\d+[dh])$")]
    exploration_slots: Annotated[int, Meta(ge=0, le=1)]
    diversity_cap: Annotated[int, Meta(ge=0)]
    attribution_window_hours: Annotated[int, Meta(ge=1)]
    trains_ranker: bool
    serves_list: bool

    @property
    def repeat_after(self) -> timedelta | None:
        """How long a consumed item stays away: None is for ever."""
        if self.repeat_policy == "never":
            return None
        if self.repeat_policy == "always":
            return timedelta(0)
        found = re.fullmatch(r"after:(\d+)([dh])", self.repeat_policy)
        assert found is not None  # the contract's pattern
        count = int(found[1])
        return timedelta(days=count) if found[2] == "d" else timedelta(hours=count)


Row = TypeVar("Row", bound=msgspec.Struct)


def read_seed(path: Path, row_type: type[Row]) -> dict[str, Row]:
    """The rows of one seed by their first column, in file order."""
    if not path.is_file():
        raise SeedError(
            f"The seed {path} is missing; set FEEDLOOP_PROJECT_DIR to the dbt "
            "project's root."
        )
    rows: dict[str, Row] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for number, values in enumerate(csv.DictReader(file), start=2):
            try:
                row = msgspec.convert(values, row_type, strict=False)
            except msgspec.ValidationError as error:
                raise SeedError(f"{path}, line {number}: {error}") from error
            key = getattr(row, row_type.__struct_fields__[0])
            if key in rows:
                raise SeedError(f"{path}, line {number}: {key!r} stands twice")
            rows[key] = row
    return rows


def read_event_types(seeds_dir: Path) -> Mapping[str, EventType]:
    return read_seed(seeds_dir / "event_types.csv", EventType)


def read_features(seeds_dir: Path) -> Mapping[str, Feature]:
    return read_seed(seeds_dir / "feature_registry.csv", Feature)


def read_surfaces(seeds_dir: Path) -> Mapping[str, Surface]:
    return read_seed(seeds_dir / "surfaces.csv", Surface)
