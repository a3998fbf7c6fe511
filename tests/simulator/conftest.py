"""Worlds whose answers are known beforehand."""

from __future__ import annotations

import dataclasses
from datetime import date

import numpy as np
import pytest

from simulator.world import World, WorldSize

START = date(2026, 1, 1)


@pytest.fixture
def two_tastes() -> World:
    """Even people like only category 0, odd people only category 1; items take
    turns, and nothing else distinguishes them. A checkerboard."""
    size = WorldSize(
        people=40,
        items=80,
        new_people_a_day=0,
        new_items_a_day=0,
        retired_items_a_day=0,
    )
    world = World(1, START, 3, size)
    people, items = np.arange(40), np.arange(80)
    taste = np.full_like(world.people.category_taste, -30.0)
    taste[people, people % 2] = 30.0
    world.people = dataclasses.replace(
        world.people,
        category_taste=taste,
        style_taste=np.zeros_like(world.people.style_taste),
        activity=np.ones(40),
    )
    world.items = dataclasses.replace(
        world.items,
        category=items % 2,
        label=items % 2,
        quality=np.zeros(80),
    )
    return world
