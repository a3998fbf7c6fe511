"""How long the feature log is kept: whole days leave the table in one commit.

Nobody's clock decides. A build's ``as_of`` says which days are old, so that a
repeated run removes nothing more, and one of the past nothing newer than itself.
"""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta

from pyiceberg.catalog import Catalog

from feedloop.errors import Fenced
from feedloop.settings import Settings
from loaders.iceberg import FencedRewrite, OffsetsKept, open_table

ATTEMPTS = 5
EPOCH = date(1970, 1, 1)


def remove_days_before(
    settings: Settings, catalog: Catalog, name: str, as_of: datetime, days: int
) -> int:
    """Take the days that ended ``days`` days before that of ``as_of`` out of the
    table ``name``, which is partitioned by day; how many files that were.

    All of them go in one commit and none is written anew; maintenance deletes
    them once no snapshot has them. Raises ``Fenced`` where others change the same
    files first each time.
    """
    first_kept = as_of.astimezone(UTC).date() - timedelta(days=days)
    for attempt in itertools.count(1):
        table = open_table(catalog, settings, name)
        wanted = f"generated_at < '{first_kept.isoformat()}T00:00:00+00:00'"
        old = [
            task.file
            for task in table.scan(wanted).plan_files()
            if task.file.partition[0] < (first_kept - EPOCH).days
        ]
        if not old:
            break
        rewrite = FencedRewrite(table)
        rewrite.replace(old)
        try:
            rewrite.commit(OffsetsKept())
            return len(old)
        except Fenced:
            if attempt == ATTEMPTS:
                raise
    return 0
