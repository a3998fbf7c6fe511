"""The key space: the one place where the names of Redis keys live.

``KEYS`` is the machine-readable table of the public contract that KEYSPACE.md
states in words; ``Keys`` makes the names. Every key begins with the namespace,
so that several share a server. What belongs to one user, or to one item,
stands under one hash tag: ``{u:…}`` and ``{i:…}`` keep it in one slot of a
cluster, and the letter keeps the tag from being empty whatever the id is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from feedloop.errors import SeedError

LAYOUT = 1
"""Version of this layout: of every name and encoding in KEYSPACE.md."""

DAY_S = 86_400
KEPT_S = 30 * DAY_S
RETIRED_S = DAY_S

CHUNK_ITEMS = 65_536
"""Items in one chunk of the dictionary."""

EntityType = Literal["user", "item"]
_LETTERS: dict[EntityType, str] = {"user": "u", "item": "i"}


@dataclass(frozen=True)
class TtlClass:
    """How long keys of a class live, in words a reader can rely on."""

    name: str
    lifetime: str


TTLS = {
    ttl.name: ttl
    for ttl in (
        TtlClass("kept", "30 days, renewed by each export"),
        TtlClass(
            "build",
            "30 days, renewed by each export of the build; 1 day once the build is "
            "neither live nor previous on any surface",
        ),
        TtlClass("list", "the surface's `ttl_hours`, counted from the export"),
        TtlClass("fresh", "30 minutes"),
        TtlClass(
            "feature",
            "the longest `ttl_seconds` of the entity's features; 0 counts as 30 days",
        ),
        TtlClass("inactive", "30 days, renewed by each writer"),
    )
}


@dataclass(frozen=True)
class KeyForm:
    """One kind of key: its name with ``<placeholders>``, Redis type, encoding
    (a heading of KEYSPACE.md), TTL class and who writes it."""

    name: str
    form: str
    redis_type: Literal["string", "hash", "set"]
    value: str
    ttl: str
    writer: str


KEYS = {
    key.name: key
    for key in (
        KeyForm("meta", "<namespace>:meta", "hash", "marker", "kept", "export"),
        KeyForm("surfaces", "<namespace>:{live}", "set", "surfaces", "kept", "export"),
        KeyForm(
            "live", "<namespace>:{live}:<surface>", "hash", "pointer", "kept", "export"
        ),
        KeyForm(
            "build", "<namespace>:build:<build_id>", "hash", "build", "build", "export"
        ),
        KeyForm(
            "items",
            "<namespace>:items:<build_id>:<chunk>",
            "string",
            "item dictionary",
            "build",
            "export",
        ),
        KeyForm(
            "cold",
            "<namespace>:cold:<surface>:<build_id>",
            "string",
            "list",
            "build",
            "export",
        ),
        KeyForm(
            "base",
            "<namespace>:{u:<user_id>}:<surface>:<build_id>:base",
            "string",
            "list",
            "list",
            "export",
        ),
        KeyForm(
            "fresh",
            "<namespace>:{u:<user_id>}:<surface>:<build_id>:fresh",
            "string",
            "list",
            "fresh",
            "refresh",
        ),
        KeyForm(
            "user_features",
            "<namespace>:{u:<user_id>}:batch",
            "string",
            "features",
            "feature",
            "export",
        ),
        KeyForm(
            "item_features",
            "<namespace>:{i:<item_id>}:batch",
            "string",
            "features",
            "feature",
            "export",
        ),
        KeyForm(
            "feature_layout",
            "<namespace>:layout:<layout_id>",
            "string",
            "feature layout",
            "kept",
            "export",
        ),
        KeyForm(
            "inactive",
            "<namespace>:inactive",
            "set",
            "inactive items",
            "inactive",
            "catalogue jobs",
        ),
    )
}

_SURFACE = re.compile(r"[a-z0-9_-]{1,64}")


def check_surface(surface: str) -> str:
    """``surface``, or ``SeedError`` where it can't be a part of a key."""
    if not _SURFACE.fullmatch(surface):
        raise SeedError(
            f"The surface {surface!r} can't be a part of a Redis key; use lower-case "
            "letters, digits, - and _ in seeds/surfaces.csv."
        )
    return surface


class Keys:
    """The names of one namespace's keys, as bytes."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def _name(self, kind: str, **parts: str) -> bytes:
        name = KEYS[kind].form.replace("<namespace>", self.namespace)
        # The id is opaque and may look like a placeholder: it goes in last.
        for part in sorted(parts, key=lambda part: part in ("user_id", "item_id")):
            name = name.replace(f"<{part}>", parts[part])
        return name.encode()

    def meta(self) -> bytes:
        return self._name("meta")

    def surfaces(self) -> bytes:
        return self._name("surfaces")

    def live(self, surface: str) -> bytes:
        return self._name("live", surface=surface)

    def build(self, build_id: str) -> bytes:
        return self._name("build", build_id=build_id)

    def items(self, build_id: str, chunk: int) -> bytes:
        return self._name("items", build_id=build_id, chunk=str(chunk))

    def cold(self, surface: str, build_id: str) -> bytes:
        return self._name("cold", surface=surface, build_id=build_id)

    def base(self, user_id: str, surface: str, build_id: str) -> bytes:
        return self._name("base", user_id=user_id, surface=surface, build_id=build_id)

    def fresh(self, user_id: str, surface: str, build_id: str) -> bytes:
        return self._name("fresh", user_id=user_id, surface=surface, build_id=build_id)

    def features(self, entity_type: EntityType, entity_id: str) -> bytes:
        parts = {f"{entity_type}_id": entity_id}
        return self._name(f"{entity_type}_features", **parts)

    def feature_layout(self, layout_id: str) -> bytes:
        return self._name("feature_layout", layout_id=layout_id)

    def inactive(self) -> bytes:
        return self._name("inactive")

    def around_user(
        self, kind: Literal["base", "fresh"], surface: str, build_id: str
    ) -> tuple[bytes, bytes]:
        """What stands before and after the user's id, for whoever makes many."""
        return self._around(self._name(kind, surface=surface, build_id=build_id))

    def around_entity(self, entity_type: EntityType) -> tuple[bytes, bytes]:
        """The same around an entity's id in the keys of its features."""
        return self._around(self._name(f"{entity_type}_features"))

    @staticmethod
    def _around(name: bytes) -> tuple[bytes, bytes]:
        before, _, rest = name.partition(b"<")
        return before, rest.partition(b">")[2]
