"""How many cores there are, and child processes that end with their parent."""

from __future__ import annotations

import os
from collections.abc import Sequence

# The shell becomes the command. Beside it waits a reader of the pipe whose other
# end this process holds: however this process ends, the pipe closes, the reader
# wakes, and the command is told to end. Nobody else may be left to see that it
# does: redis-server, for one, stays where it can't save its data.
_SCRIPT = """
exec 3<&0
seconds=$1; shift
(
    cat <&3
    kill -TERM $$ || exit
    while [ $seconds -gt 0 ]; do
        sleep 1
        kill -0 $$ || exit
        seconds=$((seconds - 1))
    done
    kill -KILL $$
) >/dev/null 2>&1 &
exec "$@" 3<&- </dev/null
"""


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ending_with_parent(command: Sequence[str], within_s: int) -> list[str]:
    """``command`` for ``Popen(…, stdin=PIPE)``: it gets SIGTERM once that pipe
    closes, and SIGKILL where it still runs ``within_s`` seconds later. Keep the
    pipe open for as long as it is to run."""
    return ["/bin/sh", "-c", _SCRIPT, "sh", str(within_s), *command]
