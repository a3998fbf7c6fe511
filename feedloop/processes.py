"""How many cores there are, and child processes that end with their parent."""

from __future__ import annotations

import os
from collections.abc import Sequence

# The shell becomes the command. Beside it waits a reader of the pipe whose other
# end this process holds: however this process ends, the pipe closes, the reader
# wakes, and the command is told to end.
_SCRIPT = 'exec 3<&0; (cat <&3 >/dev/null; kill -TERM $$) & exec "$@" 3<&- </dev/null'


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ending_with_parent(command: Sequence[str]) -> list[str]:
    """``command`` for ``Popen(…, stdin=PIPE)``: it gets SIGTERM once that pipe
    closes. Keep the pipe open for as long as it is to run."""
    return ["/bin/sh", "-c", _SCRIPT, "sh", *command]
