"""The kernel's contract: a batch of users in, a batch of lists out.

Retrieval, ranking and re-ranking are one pure function. DuckDB streams batches
through it, Spark maps it over partitions, the stream hands it a few users.
"""

from __future__ import annotations

from typing import Protocol

import pyarrow as pa

USER_COLUMNS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("vector", pa.list_(pa.float32())),
        pa.field("user_category_affinity", pa.list_(pa.float32())),
        pa.field("taste", pa.list_(pa.float32())),
        pa.field("recent_items", pa.list_(pa.string())),
        pa.field("consumed_items", pa.list_(pa.string())),
    ]
)
"""What the kernel needs to know of a user, besides one float column for each
ranked user feature of the registry. ``vector`` is the folded-in embedding
(null: no history); ``taste`` what impressions taught of them (null: the mean of
everybody); ``recent_items`` the last engagements, newest first;
``consumed_items`` what the surface's repeat policy keeps away."""

LIST_COLUMNS = pa.schema(
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
        pa.field("user_values", pa.list_(pa.float32())),
        pa.field("candidate_values", pa.list_(pa.float32())),
    ]
)
"""One row a user. The lists are parallel, index 0 highest, but for ``expectations``,
``reasons`` and ``reason_values``, which are as in ``LISTS_SCHEMA``. What an item was
scored with is, in the order of the build's feature names, ``user_values`` (the
same for the whole list), the item's own values (the same for the whole build,
which has them) and its row of ``candidate_values`` (row-major, one row an
item)."""


class Kernel(Protocol):
    def lists(self, users: pa.RecordBatch, surface: str) -> pa.RecordBatch:
        """Lists (LIST_COLUMNS) for ``users`` (USER_COLUMNS and features)."""
        ...
