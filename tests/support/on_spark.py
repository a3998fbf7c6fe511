"""Spark and dbt in one process beside the tests: their start is what costs."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from feedloop.settings import Settings, from_environment, to_environment


class Spark:
    """A session on a project's Spark warehouse, in a process of its own, as the
    profile configures it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Java can't be forked
        context = multiprocessing.get_context("spawn")
        self._worker = ProcessPoolExecutor(
            1, mp_context=context, initializer=_set_up, initargs=(settings,)
        )

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What ``function`` of the session and ``arguments`` returns."""
        return self._worker.submit(_told, function, arguments).result()

    def dbt(self, *arguments: str, **variables: Any) -> None:
        """dbt on this session; an error where a node of it fails."""
        home = self._settings.home_dir / "spark"
        command = [
            *arguments,
            *("--target", "spark", "--project-dir", self._settings.project_dir),
            *("--profiles-dir", self._settings.project_dir),
            *("--target-path", str(home / "target"), "--log-path", str(home / "logs")),
            *("--vars", json.dumps(variables), "--log-level", "none"),
        ]
        self.call(_dbt, command)

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
        return function(spark_session(_parameters()), *arguments)
    except Exception:
        raise RuntimeError(traceback.format_exc()) from None


def _parameters() -> dict[str, str]:
    profile = Path(from_environment().project_dir) / "profiles.yml"
    output = yaml.safe_load(profile.read_text())["feedloop"]["outputs"]["spark"]
    parameters: dict[str, str] = output["server_side_parameters"]
    return parameters


def _dbt(_: Any, command: list[str]) -> None:
    from dbt.cli.main import dbtRunner

    done = dbtRunner().invoke(command)
    if not done.success:
        failed = [
            f"{one.node.name}: {one.message}"
            for one in getattr(done.result, "results", [])
            if one.status in ("error", "fail", "runtime error")
        ]
        raise RuntimeError("\n".join([str(done.exception), *failed]))


def _stop() -> None:
    module = sys.modules.get("pyspark.sql")
    if module is not None:
        running = module.SparkSession.getActiveSession()
        if running is not None:
            running.stop()
