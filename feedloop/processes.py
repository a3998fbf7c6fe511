"""Child processes that end with the process that started them."""

from __future__ import annotations

from collections.abc import Sequence

# The shell becomes the command. Beside it waits a reader of the pipe whose other
# end this process holds: however this process ends, the pipe closes, the reader
# wakes, and the command is told to end.
_SCRIPT = 'exec 3<&0; (cat <&3 >/dev/null; kill -TERM $$) & exec "$@" 3<&- </dev/null'


def ending_with_parent(command: Sequence[str]) -> list[str]:
    """``command`` for ``Popen(…, stdin=PIPE)``: it gets SIGTERM once that pipe
    closes. Keep the pipe open for as long as it is to run."""
    return ["/bin/sh", "-c", _SCRIPT, "sh", *command]
