"""Ranked lists: how they are named, versioned, signed and stored.

``rec_id`` names a stored list. ``request_id`` names one response and contains
the ``rec_id``, so that reading a list writes nothing and attribution joins.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from feedloop.errors import ContractError

COLD_USER = "~cold"
"""The user_id under which the cold-start list of a surface is stored."""

LISTS_SCHEMA = pa.schema(
    [
        pa.field("rec_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("surface", pa.string(), nullable=False),
        pa.field("item_ids", pa.list_(pa.string())),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("sources", pa.list_(pa.string())),
        pa.field("propensities", pa.list_(pa.float32())),
        pa.field("pool_sizes", pa.list_(pa.int32())),
        pa.field("expectations", pa.list_(pa.float32())),
        pa.field("reasons", pa.list_(pa.string())),
        pa.field("reason_values", pa.list_(pa.float32())),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("build_id", pa.string(), nullable=False),
        pa.field("generated_at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("expires_at", pa.timestamp("us", "UTC"), nullable=False),
    ]
)
"""One row a list. The lists are parallel, index 0 highest; ``propensities``
holds the probability with which the item was chosen for its position, and
``pool_sizes`` among how many (1: it was not drawn). ``expectations`` holds for each
item ``EXPECTED`` numbers, row-major, 0 where it was not drawn: what its own
click-through says, the mean over the pool by the chance with which each was drawn,
and the plain mean. ``reasons`` are the features
that moved the score most, strongest first, and ``reason_values`` what each added:
``REASONS`` an item, row-major, for the first items of the list only."""

REASONS = 3
EXPECTED = 3

FEATURE_LOG_SCHEMA = pa.schema(
    [
        pa.field("rec_id", pa.string(), nullable=False),
        pa.field("build_id", pa.string(), nullable=False),
        pa.field("generated_at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("feature_names", pa.list_(pa.string())),
        pa.field("user_values", pa.list_(pa.float32())),
        pa.field("candidate_values", pa.list_(pa.float32())),
    ]
)
"""One row a list: with FEATURE_LOG_ITEMS_SCHEMA exactly what the ranker was given.
In the order of ``feature_names`` an item has the list's ``user_values``, the values
that its build had for the item, and its own row of ``candidate_values`` (row-major,
one row an item of the list in ``LISTS_SCHEMA``, in its order)."""

FEATURE_LOG_ITEMS_SCHEMA = pa.schema(
    [
        pa.field("build_id", pa.string(), nullable=False),
        pa.field("generated_at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("item_values", pa.list_(pa.float32())),
    ]
)
"""One row a build and item that its lists may hold."""


def rec_id(user_id: str, surface: str, build_id: str) -> str:
    """Name of the list of ``user_id`` on ``surface`` in one build."""
    digest = hashlib.blake2b(
        "\x1f".join((user_id, surface, build_id)).encode(), digest_size=12
    )
    return f"rec_{digest.hexdigest()}"


@dataclass(frozen=True)
class BuildId:
    """``model_version@as_of``: one immutable folder and a part of every key."""

    model_version: str
    as_of: datetime

    _form = re.compile(r"([a-z0-9][a-z0-9_.-]*)@(\d{8}T\d{12}Z)")

    def __str__(self) -> str:
        at = self.as_of.astimezone(UTC)
        return f"{self.model_version}@{at:%Y%m%dT%H%M%S%f}Z"

    @classmethod
    def parse(cls, text: str) -> BuildId:
        found = cls._form.fullmatch(text)
        if found is None:
            raise ContractError(f"{text!r} is not a build_id (model_version@as_of).")
        at = datetime.strptime(found[2], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
        return cls(found[1], at)


class RequestSigner:
    """Makes and checks request ids: ``<rec_id>.<nonce>.<signature>``.

    The signature covers the user, so that one client's id is worth nothing
    under another's name.
    """

    def __init__(self, key: str) -> None:
        self._key = hashlib.sha256(key.encode()).digest()

    def _signature(self, rec_id: str, nonce: str, user_id: str) -> str:
        text = f"{rec_id}.{nonce}.{user_id}".encode()
        return hashlib.blake2b(text, key=self._key, digest_size=9).hexdigest()

    def sign(self, rec_id: str, user_id: str) -> str:
        nonce = secrets.token_hex(6)
        return f"{rec_id}.{nonce}.{self._signature(rec_id, nonce, user_id)}"

    def verify(self, request_id: str, user_id: str) -> str | None:
        """The rec_id in ``request_id``, or None where it isn't ours."""
        parts = request_id.split(".")
        if len(parts) != 3:
            return None
        rec_id, nonce, signature = parts
        expected = self._signature(rec_id, nonce, user_id)
        good = hmac.compare_digest(signature.encode(), expected.encode())
        return rec_id if good else None
