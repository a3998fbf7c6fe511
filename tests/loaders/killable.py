"""A loader in a process of its own, that a test may kill at any instant."""

from __future__ import annotations

from multiprocessing.synchronize import Event

from feedloop.clock import FixedClock
from feedloop.errors import Fenced
from feedloop.settings import from_environment
from loaders.iceberg import open_catalog
from loaders.loader import Loader
from loaders.log import open_log
from tests.loaders.sending import NOW


def load_until_done(home: str, batch: int, started: Event) -> None:
    """Load events ``batch`` at a time until there are no more."""
    settings = from_environment({}, home=home, namespace="t1", load_max_events=batch)
    log = open_log(settings, FixedClock(NOW))
    loader = Loader(settings, open_catalog(settings), log, "events")
    started.set()
    while True:
        try:
            if loader.load_once().load_seq is None:
                return
        except Fenced:
            continue
