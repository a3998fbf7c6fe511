"""The kernel's parameters: recorded in the build, a part of its version."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Share = Annotated[float, Meta(ge=0, le=1)]


class KernelParams(msgspec.Struct, frozen=True, kw_only=True):
    """Of retrieval, exploration and the index. Shares are of ``candidates``, until
    there is something to learn them from (``quotas``)."""

    # retrieval
    candidates: Annotated[int, Meta(ge=1, le=2000)] = 300
    als_share: Share = 0.20
    item_item_share: Share = 0.16
    ease_share: Share = 0.16
    taste_share: Share = 0.20
    trending_share: Share = 0.16
    popular_share: Share = 0.08
    fresh_share: Share = 0.04
    recent_items: Annotated[int, Meta(ge=0, le=1000)] = 30
    recent_half_life: Annotated[float, Meta(gt=0)] = 7.0

    # where there is no ranker: weights beside those of the personal sources
    blend_trending: Annotated[float, Meta(ge=0)] = 0.25
    blend_popular: Annotated[float, Meta(ge=0)] = 0.25

    # the exact_up_to longest vectors are searched exactly, the others by the index
    exact_up_to: Annotated[int, Meta(ge=0)] = 16_384
    index_connectivity: Annotated[int, Meta(ge=2)] = 16
    index_expansion_add: Annotated[int, Meta(ge=1)] = 128
    index_expansion_search: Annotated[int, Meta(ge=1)] = 64

    # exploration
    explore_below_impressions: Annotated[int, Meta(ge=0)] = 1000
    explore_pool: Annotated[int, Meta(ge=1, le=1000)] = 50
    explore_reach: Annotated[int, Meta(ge=0, le=100)] = 10
    explore_prior: Annotated[float, Meta(gt=0)] = 60.0
    explore_width: Annotated[float, Meta(ge=0)] = 0.5
    explore_temperature: Annotated[float, Meta(gt=0)] = 0.05
    explore_floor: Annotated[float, Meta(gt=0, le=1)] = 0.02
    explore_floor_unsure: Annotated[float, Meta(gt=0, le=1)] = 0.1
    sure_from_items: Annotated[int, Meta(ge=0)] = 5

    # training
    training_negatives: Annotated[int, Meta(ge=1)] = 100
