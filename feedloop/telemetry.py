"""What a person and a log collector see: progress bars and structured lines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

console = Console(stderr=True, highlight=False)
"""For people; what a command answers goes to stdout."""


class JsonLines(logging.Formatter):
    """One JSON object a line: ts, level, logger, event and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created).astimezone().isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        } | getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def configure_logging(level: int = logging.INFO) -> None:
    """Structured lines of Feedloop's own loggers on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger("feedloop")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


def log_event(name: str, event: str, **fields: Any) -> None:
    """One structured line of the logger ``feedloop.<name>``."""
    logging.getLogger(f"feedloop.{name}").info(event, extra={"fields": fields})


class Advance(Protocol):
    def __call__(self, done: float) -> None: ...


@contextmanager
def progress(title: str, total: float | None) -> Iterator[Advance]:
    """A bar of ``total`` steps (None: unknown); call what it yields with the
    steps done since the last call. Silent where stderr is no terminal."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        task = bars.add_task(title, total=total)
        yield lambda done: bars.advance(task, done)
