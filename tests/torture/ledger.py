"""What the test's own client sent and was told: the truth all else is held to."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

Body = dict[str, Any]


class Ledger:
    """Kept by the client alone; safe to share by threads.

    ``bodies`` has everything that was ever sent under an ``event_id``, in the
    order of sending; ``acknowledged`` those that a 202 (or a broker's ack, or a
    committed transaction) answered.
    """

    def __init__(self) -> None:
        self.bodies: dict[str, list[Body]] = {}
        self.acknowledged: set[str] = set()
        self.letters: set[bytes] = set()
        """What is no event and was acknowledged by the log itself."""
        self.items: set[tuple[str, str]] = set()
        """Acknowledged versions of items: id and title."""
        self._lock = threading.Lock()

    def sending(self, bodies: Sequence[Body]) -> None:
        with self._lock:
            for body in bodies:
                known = self.bodies.setdefault(body["event_id"], [])
                if body not in known:
                    known.append(body)

    def told(self, event_ids: Sequence[str]) -> None:
        with self._lock:
            self.acknowledged.update(event_ids)

    def told_letter(self, value: bytes) -> None:
        with self._lock:
            self.letters.add(value)

    def told_item(self, item_id: str, title: str) -> None:
        with self._lock:
            self.items.add((item_id, title))

    def conflicting(self) -> set[str]:
        """Ids that were sent with more than one body."""
        with self._lock:
            return {one for one, bodies in self.bodies.items() if len(bodies) > 1}
