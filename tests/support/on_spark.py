"""Spark in one process beside the tests: its start is what costs."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from feedloop.settings import Settings, to_environment


class Spark:
    """A session on a project's Spark warehouse, in a process of its own."""

    def __init__(self, settings: Settings) -> None:
        # Java can't be forked
        context = multiprocessing.get_context("spawn")
        self._worker = ProcessPoolExecutor(
            1, mp_context=context, initializer=_set_up, initargs=(settings,)
        )

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What ``function`` of the session and ``arguments`` returns."""
        return self._worker.submit(_told, function, arguments).result()

    def stop(self) -> None:
        self._worker.submit(_stop).result()
        self._worker.shutdown()


def _set_up(settings: Settings) -> None:
    os.environ.update(to_environment(settings))
    os.dup2(2, 1)  # what Spark says is no answer of a test


def _told(function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """What the function returns; Spark's errors can't leave the process."""
    from dbt.adapters.sparkpy.session import spark_session

    try:
        return function(spark_session({}), *arguments)
    except Exception:
        raise RuntimeError(traceback.format_exc()) from None


def _stop() -> None:
    module = sys.modules.get("pyspark.sql")
    if module is not None:
        running = module.SparkSession.getActiveSession()
        if running is not None:
            running.stop()
