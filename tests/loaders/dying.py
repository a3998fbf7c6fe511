"""A process that dies at one of its commits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from loaders.iceberg import FencedAppend

EVERY_COMMIT = "loaders.iceberg._PendingCommit.commit"


class Killed(BaseException):
    """As sudden as a SIGKILL: nothing in between may catch it."""


@contextmanager
def killed_after(commits: int, of: int) -> Iterator[None]:
    """What runs inside dies when it has made so many of its ``of`` commits.

    With all of them made it ends as it should.
    """
    real = FencedAppend.commit
    left = iter(range(commits))

    def dying(self: Any, fence: Any) -> None:
        if next(left, None) is None:
            raise Killed
        real(self, fence)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EVERY_COMMIT, dying)
        if commits == of:
            yield
            return
        with pytest.raises(Killed):
            yield
