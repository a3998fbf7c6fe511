"""Columns that the contract gained: old partitions stay, and are read as null."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from feedloop.clock import FixedClock
from feedloop.contracts.tables import EVENTS_SCHEMA, RAW_TABLES
from feedloop.settings import Settings
from loaders.compaction import CompactionPolicy, compact
from loaders.decode import decoder
from loaders.duckdb_plugin import raw_views
from loaders.iceberg import (
    FencedAppend,
    OffsetFence,
    Position,
    ensure_tables,
    open_catalog,
    open_table,
)
from loaders.loader import load_all
from loaders.log import create_topics, open_log
from tests.loaders.sending import event, rows, send

NEW = ("dwell_time_ms", "model_version", "rec_id")


def test_a_table_of_before_is_read_and_loaded(
    settings: Settings, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that was made, and loaded, when the contract had fewer columns."""
    fewer = pa.schema([field for field in EVENTS_SCHEMA if field.name not in NEW])
    with closing(open_log(settings, clock)) as log:
        create_topics(log, settings)
        send(log, settings, *map(event, range(3)))
        state = log.state("t1.events")
        batch = log.read("t1.events", {}, 100)
        assert state is not None

        raw = replace(RAW_TABLES["events"], schema=fewer)
        monkeypatch.setitem(RAW_TABLES, "events", raw)
        catalog = open_catalog(settings)
        ensure_tables(catalog, settings)
        table = open_table(catalog, settings, "events")
        assert not set(NEW) & set(table.schema().column_names)
        append = FencedAppend(table)
        decode = decoder("events", settings).decode
        for records in batch.parts:
            old = pa.Table.from_batches([decode(records, 1).rows])
            append.add(old.select(fewer.names))
        end = Position(state.topic_id, 1, dict(batch.next_offsets))
        append.commit(OffsetFence("events", None, end))
        files = {task.file.file_path for task in table.refresh().scan().plan_files()}
        monkeypatch.undo()

        # the day of the old rows, one of its own, and one sent again
        context: dict[str, Any] = {"dwell_time_ms": 700, "model_version": "m1"}
        send(
            log,
            settings,
            event(3, context=context | {"brand_new_key": [1]}),
            event(1500, context=context),
            event(1, context=context),
        )
        (report,) = load_all(settings, clock)
    assert (report.rows, report.duplicates, report.load_seq) == (2, 1, 2)
    table = open_table(catalog, settings, "events")
    assert files < {task.file.file_path for task in table.scan().plan_files()}

    expected = {"e0": None, "e1": None, "e2": None, "e3": 700, "e1500": 700}

    def dwell() -> dict[str, int | None]:
        return {
            row["event_id"]: row["dwell_time_ms"] for row in rows(settings, "events")
        }

    assert dwell() == expected
    with raw_views(settings) as connection:
        query = "select event_id, dwell_time_ms from events order by event_id"
        assert dict(connection.execute(query).fetchall()) == expected
        kept = "select context from events where event_id = 'e3'"
        assert '"brand_new_key"' in connection.execute(kept).fetchall()[0][0]
    compact(
        lambda: open_table(catalog, settings, "events"),
        RAW_TABLES["events"].sort_by,
        CompactionPolicy(64 << 20, min_files=2),
    )
    assert dwell() == expected
