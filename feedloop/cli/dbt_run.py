"""dbt, run in this process on the project, for commands that need it."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.cli.main import dbtRunner, dbtRunnerResult

from feedloop.errors import StepFailed
from feedloop.settings import Settings, to_environment
from feedloop.telemetry import progress


@contextlib.contextmanager
def settings_in_environment(settings: Settings) -> Iterator[None]:
    """dbt's profile and Python models read the environment: give it them."""
    before = dict(os.environ)
    os.environ.update(to_environment(settings))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run_dbt(
    settings: Settings, *arguments: str, variables: Mapping[str, Any] | None = None
) -> dbtRunnerResult:
    """Run dbt in this process on the project; ``StepFailed`` names what broke.

    Its artefacts go to ``home``, so that namespaces don't overwrite each
    other's.
    """
    with progress(f"dbt {arguments[0]}", total=None) as advance:

        def on_event(event: Any) -> None:
            if event.info.name == "NodeFinished":
                advance(1)

        command = [
            *arguments,
            "--project-dir",
            settings.project_dir,
            "--profiles-dir",
            settings.project_dir,
            "--target-path",
            str(settings.home_dir / "target"),
            "--log-path",
            str(settings.home_dir / "logs"),
            "--quiet",
            # what broke is raised here; dbt would print a traceback of Ctrl-C
            *("--log-level", "none", "--log-level-file", "debug"),
        ]
        if variables:
            command += ["--vars", json.dumps(dict(variables))]
        with settings_in_environment(settings):
            try:
                result = dbtRunner(callbacks=[on_event]).invoke(command)
            finally:
                _let_go()
    if result.exception is not None:
        raise StepFailed(f"dbt {arguments[0]} could not run: {result.exception}")
    if not result.success:
        raise StepFailed(_broken(settings, arguments[0], result))
    return result


def _let_go() -> None:
    """Close dbt's connection: it would hold the file's lock for as long as this
    process lives, and the next run would see this run's raw tables."""
    manager: Any = DuckDBConnectionManager
    manager.close_all_connections()
    gc.collect()  # cursors of Python models sit in cycles


def _broken(settings: Settings, command: str, result: dbtRunnerResult) -> str:
    failed = [
        f"{one.node.name}: {_sentence(one.message or '')}"
        for one in getattr(result.result, "results", [])
        if one.status in ("error", "fail", "runtime error")
    ]
    return (
        f"dbt {command} stopped, so that no new list is made and the previous "
        f"lists stay. {len(failed)} broke: {'; '.join(failed[:5])}. The log is "
        f"{settings.home_dir / 'logs' / 'dbt.log'}."
    )


def _sentence(message: str) -> str:
    """What a Python model raised on purpose stands at the end of its traceback;
    else dbt's first line says most."""
    raised: list[str] = re.findall(r"^ *feedloop\.errors\.\w+: (.+)$", message, re.M)
    return raised[-1].rstrip(".") if raised else message.strip().splitlines()[0]


def keep_state(settings: Settings) -> None:
    """Publish this run's manifest as the production state that
    ``dbt build --select state:modified+ --defer --state …`` compares with."""
    state = settings.home_dir / "state"
    state.mkdir(parents=True, exist_ok=True)
    draft = state / f".manifest.{os.getpid()}"
    shutil.copyfile(settings.home_dir / "target" / "manifest.json", draft)
    draft.replace(state / "manifest.json")
