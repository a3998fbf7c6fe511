"""The ``feedloop`` command as a person or cron runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import msgspec
from click.testing import CliRunner, Result

from feedloop.cli import group
from feedloop.settings import Settings, to_environment


def feedloop(settings: Settings, *arguments: str) -> Result:
    result = CliRunner().invoke(group, arguments, env=to_environment(settings))
    if result.exit_code:
        print(result.output, repr(result.exception))
    return result


def start(settings: Settings, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "feedloop", *arguments],
        env=os.environ | to_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(process: subprocess.Popen[str], wanted: int) -> list[dict[str, Any]]:
    """The next ``wanted`` structured lines of a process."""
    assert process.stderr is not None
    return [msgspec.json.decode(process.stderr.readline()) for _ in range(wanted)]
