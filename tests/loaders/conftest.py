from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from feedloop.clock import FixedClock
from feedloop.settings import Settings, from_environment

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return from_environment({}, home=str(tmp_path), namespace="t1")
