"""All of it together: tables stay quick, readers and offsets stay."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.io import pyarrow as iceberg_arrow
from pyiceberg.table import Table
from pyiceberg.table.update.snapshot import (
    ExpireSnapshots,
    _ManifestMergeManager,
    _OverwriteFiles,
    _SnapshotProducer,
)

from feedloop.clock import FixedClock
from feedloop.contracts.log import EventLog, Message
from feedloop.contracts.tables import RAW_TABLES
from feedloop.settings import Settings
from loaders.duckdb_plugin import load_extensions
from loaders.iceberg import (
    FencedAppend,
    OffsetsKept,
    open_table,
)
from loaders.loader import Loader, load_all
from loaders.maintenance import maintain
from tests.loaders.maintained import files, later, on_disk
from tests.loaders.sending import NOW, event, event_ids, rows, send


def test_every_raw_table_is_compacted(
    settings: Settings, clock: FixedClock, log: EventLog, catalog: Catalog
) -> None:
    for number in range(5):
        item = {"item_id": f"i{number}", "category": "c", "published_at": NOW}
        user = {"user_id": f"u{number}", "created_at": NOW}
        log.append("t1.items", [Message("i", msgspec.json.encode(item), NOW)])
        log.append("t1.users", [Message("u", msgspec.json.encode(user), NOW)])
        log.append("t1.events", [Message("k", b"\xff bad", NOW)])
        load_all(settings, clock)
    for name in ("lists", "feature_log", "feature_log_items"):
        schema = RAW_TABLES[name].schema
        for number in range(5):
            row = {
                field.name: {
                    "string": f"x{number}",
                    "timestamp[us, tz=UTC]": NOW,
                }.get(str(field.type), [])
                for field in schema
            }
            if name == "feature_log":
                row["candidate_values"] = [0.5, float(number)]
            pending = FencedAppend(open_table(catalog, settings, name))
            pending.add(pa.Table.from_pylist([row], schema=schema))
            pending.commit(OffsetsKept())
    before = {name: rows(settings, name) for name in RAW_TABLES}
    reports = {one.table: one for one in maintain(settings, later(0))}
    assert list(reports) == list(RAW_TABLES)
    for name in RAW_TABLES:
        moved = reports[name].compacted
        expected = (0, 0) if name in ("events", "accepted_losses") else (5, 1)
        assert (moved.files_before, moved.files_after) == expected, name
        key = str
        assert sorted(map(key, rows(settings, name))) == sorted(map(key, before[name]))
    stored = [row["item_id"] for row in rows(settings, "items")]
    assert stored == sorted(stored)
    # the loader goes on from where it was
    assert load_all(settings, clock) == []


def test_commits_do_not_grow_with_their_number(
    opened: Callable[[], Table], loader: Loader, log: EventLog, settings: Settings
) -> None:
    """What a commit reads and writes: snapshots, manifests, metadata files."""
    small = msgspec.structs.replace(
        settings, snapshot_age_s=0, orphan_age_s=0, snapshots_kept=2
    )
    seen = []
    for batch in range(40):
        send(log, settings, event(batch))
        loader.load_once()
        if batch % 8 == 7:
            list(maintain(small, later(1)))
            table = opened()
            head = table.current_snapshot()
            assert head is not None
            seen.append(
                (
                    len(table.snapshots()),
                    len(head.manifests(table.io)),
                    len(files(table)),
                    len(on_disk(table)),
                )
            )
    # metadata files that the metadata itself lists are there until it drops them
    assert seen[-1] == seen[-2]
    assert seen[-1][:3] == (3, 1, 1)
    assert event_ids(settings) == sorted(f"e{n}" for n in range(40))


def test_a_reader_goes_on_with_what_it_began_with(
    loaded: Loader,
    opened: Callable[[], Table],
    log: EventLog,
    settings: Settings,
) -> None:
    """As dbt does: it holds a metadata file for as long as a build takes."""
    location = opened().metadata_location
    hasty = msgspec.structs.replace(settings, snapshot_age_s=3600, orphan_age_s=3600)
    for number in range(100, 122):  # more than the metadata lists
        send(log, settings, event(number))
        loaded.load_once()
    list(maintain(hasty, later(0.9)))
    with duckdb.connect() as connection:
        load_extensions(connection)
        query = f"select count(*) from iceberg_scan('{location}')"
        assert connection.execute(query).fetchone() == (18,)
        list(maintain(hasty, later(1.1)))
        with pytest.raises(duckdb.Error):
            connection.execute(query)
    assert len(event_ids(settings)) == 40


def test_the_private_api_is_the_one_that_was_measured() -> None:
    def source(function: Callable[..., Any]) -> str:
        return inspect.getsource(function)

    # every attempt looks for the old files on the head that it builds on
    assert "_deleted_entries()" in source(_SnapshotProducer._manifests)
    assert "_validate_required_deletes" in source(_OverwriteFiles._deleted_entries)
    assert "self._process_manifests(" in source(_SnapshotProducer._manifests)
    assert "_build_manifest_evaluator" in source(_OverwriteFiles._existing_manifests)
    assert "_build_manifest_evaluator" in source(_OverwriteFiles._deleted_entries)
    assert list(inspect.signature(_ManifestMergeManager).parameters) == [
        "target_size_bytes",
        "min_count_to_merge",
        "merge_enabled",
        "snapshot_producer",
    ]
    expiry = source(ExpireSnapshots._commit)
    assert "self._snapshot_ids_to_expire -= protected_ids" in expiry
    assert "RemoveSnapshotsUpdate(snapshot_ids=self._snapshot_ids_to_expire)" in expiry
    assert list(
        inspect.signature(iceberg_arrow.parquet_file_to_data_file).parameters
    ) == ["io", "table_metadata", "file_path"]
