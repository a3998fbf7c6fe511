"""Processes that a test ends, freezes or trips at any instant.

They are forked from a server that has everything imported, so that a process
that was killed is back in milliseconds. A trap lies around what production
code calls (the catalog's commit, Python itself) and never in it.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from sqlalchemy.exc import OperationalError

PRELOADED = ("tests.support.children", "feedloop.cli.load", "loaders.loader")
PR_SET_PDEATHSIG = 1
WAIT_S = 120


# --- traps -------------------------------------------------------------------


class When(StrEnum):
    BEFORE = "before the commit"
    AFTER = "after the commit landed and before its reply"


class Effect(StrEnum):
    DIE = "die"
    WAIT = "wait until it is told to go on"
    UNKNOWN = "the catalog can't say whether it landed"
    REFUSED = "a gateway repeats the commit and gets the refusal of the second"
    CUT = "the catalog's connection is cut"


class Trap(NamedTuple):
    """Sprung by the ``nth`` commit (from 0) to ``table``."""

    table: str
    nth: int
    when: When
    effect: Effect


Reaction = Callable[[When, str], None]


def watch_commits(react: Reaction) -> None:
    """Call ``react`` around every commit of this process to the catalog."""
    real = SqlCatalog.commit_table

    def commit_table(self: SqlCatalog, table: Any, *change: Any) -> Any:
        name = table.name()[-1]
        react(When.BEFORE, name)
        response = real(self, table, *change)
        react(When.AFTER, name)
        return response

    setattr(SqlCatalog, "commit_table", commit_table)  # noqa: B010 - mypy: a method


def spring(effect: Effect) -> None:
    """Let ``effect`` happen; ``WAIT`` is the caller's."""
    if effect is Effect.DIE:
        die()
    if effect is Effect.UNKNOWN:
        raise CommitStateUnknownException("the reply was lost")
    if effect is Effect.REFUSED:
        raise CommitFailedException("the branch has changed")
    if effect is Effect.CUT:
        lost = ConnectionResetError("the connection was reset")
        raise OperationalError("COMMIT", {}, lost, connection_invalidated=True)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def lay(trap: Trap, reached: Event, go_on: Event) -> None:
    """Lay ``trap`` in this process; it sets ``reached`` when it is sprung."""
    seen = {When.BEFORE: 0, When.AFTER: 0}

    def react(when: When, table: str) -> None:
        if table != trap.table:
            return
        seen[when] += 1
        if when is trap.when and seen[when] == trap.nth + 1:
            reached.set()
            if trap.effect is Effect.WAIT:
                go_on.wait(WAIT_S)
            spring(trap.effect)

    watch_commits(react)


def die_at_call(number: int) -> None:
    """SIGKILL this process at its ``number``-th call or return in Python.

    The instants are as dense as the code: between any two statements that call
    something there is one.
    """
    left = number

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            die()

    sys.setprofile(count)


# --- processes ---------------------------------------------------------------


def context() -> Any:
    """The fork server's; each test process has one of its own."""
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(list(PRELOADED))
    return chosen


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """``target(*arguments)`` in a process of its own, which ends with this one."""
    process: BaseProcess = context().Process(
        target=_with_parent, args=(target, arguments), daemon=False
    )
    process.start()
    return process


def _with_parent(target: Callable[..., None], arguments: Sequence[Any]) -> None:
    # The fork server is the parent, and ends when the test does, however it ends.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    target(*arguments)


def run_feedloop(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    output: Path,
    react: Reaction | None,
) -> None:
    """For ``start``: what ``feedloop ARGUMENTS`` does in a shell.

    ``react`` (a picklable one) hears of every commit to the catalog.
    """
    redirect(output)
    for name in [name for name in os.environ if name.startswith("FEEDLOOP_")]:
        del os.environ[name]
    os.environ.update(environment)
    sys.argv = ["feedloop", *arguments]
    if react is not None:
        watch_commits(react)
    from feedloop.cli import main

    main()


def redirect(output: Path) -> None:
    """What this process says goes to the end of ``output``."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
