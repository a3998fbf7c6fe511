"""The raw tables, and the private API of pyiceberg that the fence relies on."""

from __future__ import annotations

import inspect
import multiprocessing
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.io.pyarrow import _dataframe_to_data_files
from pyiceberg.table import Table, Transaction
from pyiceberg.table.update.snapshot import _MergeAppendFiles, _SnapshotProducer
from sqlalchemy.exc import OperationalError

from feedloop.contracts import tables
from feedloop.contracts.tables import RAW_TABLES, RawTable
from feedloop.errors import Fenced, OffsetHistoryExpired, SettingsError
from feedloop.settings import Settings, from_environment
from loaders.iceberg import (
    FencedAppend,
    OffsetFence,
    Position,
    committed,
    ensure_tables,
    open_catalog,
    open_table,
)

AT = datetime(2026, 3, 1, tzinfo=UTC)
FIRST = Position("topic", 1, {0: 10})
SECOND = Position("topic", 2, {0: 20})


def user_rows(*names: str) -> pa.Table:
    rows = [
        {
            "user_id": name,
            "created_at": AT,
            "ingested_at": AT,
            "log_partition": 0,
            "log_offset": 0,
            "load_seq": 1,
        }
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=tables.USERS_SCHEMA)


def append(table: Table, start: Position | None, end: Position, *names: str) -> None:
    pending = FencedAppend(table)
    if names:
        pending.add(user_rows(*names))
    pending.commit(OffsetFence("users", start, end))


def names_in(table: Table) -> list[str]:
    return sorted(table.refresh().scan().to_arrow()["user_id"].to_pylist())


def columns(schema: pa.Schema) -> list[tuple[str, str, bool]]:
    """Names, types and nullability; how long a text may be in Arrow is no
    part of a type in Iceberg."""
    plain = (str(field.type).replace("large_", "") for field in schema)
    return [
        (field.name, kind.replace("element", "item"), field.nullable)
        for field, kind in zip(schema, plain, strict=True)
    ]


# --- tables ------------------------------------------------------------------


def test_every_raw_table_is_made_as_its_contract_says(
    catalog: Catalog, settings: Settings
) -> None:
    for raw in RAW_TABLES.values():
        table = open_table(catalog, settings, raw.name)
        assert columns(table.scan().to_arrow().schema) == columns(raw.schema)
        by_day = [field.name for field in table.spec().fields]
        assert by_day == ([f"{raw.partition_by}_day"] if raw.partition_by else [])
        assert table.format_version == 2
        assert int(table.properties["commit.retry.num-retries"]) >= 4


def test_ensuring_twice_changes_nothing(catalog: Catalog, settings: Settings) -> None:
    before = {
        name: open_table(catalog, settings, name).metadata_location
        for name in RAW_TABLES
    }
    ensure_tables(catalog, settings)
    assert before == {
        name: open_table(catalog, settings, name).metadata_location
        for name in RAW_TABLES
    }


def ensure_in_process(home: str) -> None:
    settings = from_environment({}, home=home, namespace="t1")
    ensure_tables(open_catalog(settings), settings)


def test_processes_that_start_at_once_share_the_tables(
    tmp_path: Path, settings: Settings
) -> None:
    context = multiprocessing.get_context("spawn")
    starters = [
        context.Process(target=ensure_in_process, args=(str(tmp_path),))
        for _ in range(2)
    ]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert [starter.exitcode for starter in starters] == [0, 0]
    catalog = open_catalog(settings)
    found = {name for _, name in catalog.list_tables(settings.raw_schema)}
    assert found == set(RAW_TABLES)


def test_a_column_that_a_contract_gained(
    catalog: Catalog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = open_table(catalog, settings, "users")
    append(table, None, FIRST, "before")

    wider = tables.USERS_SCHEMA.append(pa.field("favourite", pa.string()))
    monkeypatch.setitem(RAW_TABLES, "users", RawTable("users", wider))
    ensure_tables(catalog, settings)
    table = open_table(catalog, settings, "users")
    pending = FencedAppend(table)
    row = user_rows("after").append_column("favourite", pa.array(["jazz"]))
    pending.add(row.cast(wider))
    pending.commit(OffsetFence("users", FIRST, SECOND))

    rows = table.refresh().scan().to_arrow().to_pylist()
    assert {(row["user_id"], row["favourite"]) for row in rows} == {
        ("before", None),
        ("after", "jazz"),
    }


def test_a_catalog_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_text("this is no database " * 100)
    settings = from_environment(
        {}, home=str(tmp_path), catalog_uri=f"sqlite:///{tmp_path / 'catalog.db'}"
    )
    with pytest.raises(SettingsError, match="FEEDLOOP_CATALOG_URI"):
        open_catalog(settings)


# --- the fence ---------------------------------------------------------------


def test_rows_and_position_are_one_commit(catalog: Catalog, settings: Settings) -> None:
    table = open_table(catalog, settings, "users")
    assert committed(table.metadata) == {}
    append(table, None, FIRST, "a", "b")
    table.refresh()
    assert committed(table.metadata) == {"users": FIRST}
    append(table, FIRST, SECOND)  # no rows: only the position moves
    assert committed(table.refresh().metadata) == {"users": SECOND}
    assert names_in(table) == ["a", "b"]


def test_a_stale_start_is_refused(catalog: Catalog, settings: Settings) -> None:
    first = open_table(catalog, settings, "users")
    second = open_table(catalog, settings, "users")
    append(first, None, FIRST, "a")
    with pytest.raises(Fenced, match="run it again"):
        append(second, None, FIRST, "a")  # a head of long ago
    with pytest.raises(Fenced):
        append(second.refresh(), None, FIRST, "a")  # the new head, other offsets
    assert names_in(first) == ["a"]


def test_a_commit_that_moves_no_offsets_is_no_obstacle(
    catalog: Catalog, settings: Settings
) -> None:
    append(open_table(catalog, settings, "users"), None, FIRST, "a")
    late = open_table(catalog, settings, "users")
    pending = FencedAppend(late)
    pending.add(user_rows("b"))
    other = open_table(catalog, settings, "users")
    other.append(user_rows("someone else's"))  # as a compaction would
    pending.commit(OffsetFence("users", FIRST, SECOND))
    assert names_in(late) == ["a", "b", "someone else's"]
    assert committed(late.refresh().metadata) == {"users": SECOND}


def test_streams_of_one_table_do_not_fence_each_other(
    catalog: Catalog, settings: Settings
) -> None:
    one = open_table(catalog, settings, "users")
    other = open_table(catalog, settings, "users")
    append(one, None, FIRST, "a")
    pending = FencedAppend(other)
    pending.add(user_rows("b"))
    pending.commit(OffsetFence("items", None, SECOND))
    assert committed(other.refresh().metadata) == {"users": FIRST, "items": SECOND}
    assert names_in(other) == ["a", "b"]


def test_a_commit_whose_reply_was_lost(
    catalog: Catalog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalog has it and says that it failed: it is there once."""
    table = open_table(catalog, settings, "users")
    real = table.catalog.commit_table
    lies = iter([True])

    def commit(*arguments: Any) -> Any:
        answer = real(*arguments)
        if next(lies, False):
            raise CommitFailedException("409")
        return answer

    monkeypatch.setattr(table.catalog, "commit_table", commit)
    append(table, None, FIRST, "a")
    assert names_in(open_table(catalog, settings, "users")) == ["a"]


def test_a_last_attempt_whose_reply_was_lost_leaves_the_table_readable(
    catalog: Catalog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = open_table(catalog, settings, "users")
    table.metadata.properties["commit.retry.num-retries"] = "0"
    real = table.catalog.commit_table

    def commit(*arguments: Any) -> Any:
        real(*arguments)
        raise CommitFailedException("409")

    monkeypatch.setattr(table.catalog, "commit_table", commit)
    with pytest.raises(Fenced):
        append(table, None, FIRST, "a")
    fresh = open_table(catalog, settings, "users")
    assert names_in(fresh) == ["a"]
    assert committed(fresh.metadata) == {"users": FIRST}


@pytest.mark.parametrize(
    "error",
    [
        CommitStateUnknownException("504"),
        OperationalError("COMMIT", {}, ConnectionResetError("reset")),
        ValueError("Cannot add snapshot with sequence number 3 older than 4"),
    ],
)
def test_what_else_a_catalog_may_answer(
    catalog: Catalog,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    table = open_table(catalog, settings, "users")

    def commit(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(table.catalog, "commit_table", commit)
    with pytest.raises(Fenced, match="again"):
        append(table, None, FIRST, "a")


def test_offsets_survive_the_expiry_of_all_but_the_head(
    catalog: Catalog, settings: Settings
) -> None:
    table = open_table(catalog, settings, "users")
    append(table, None, FIRST, "a")
    append(table.refresh(), FIRST, SECOND, "b")
    head = table.refresh().current_snapshot()
    assert head is not None
    old = [s.snapshot_id for s in table.snapshots() if s != head]
    table.maintenance.expire_snapshots().by_ids(old).commit()
    table.refresh()
    assert len(table.snapshots()) == 1
    assert committed(table.metadata) == {"users": SECOND}


def test_offsets_that_were_expired_are_an_error(
    catalog: Catalog, settings: Settings
) -> None:
    table = open_table(catalog, settings, "users")
    append(table, None, FIRST, "a")
    loaded = table.refresh().current_snapshot()
    table.append(user_rows("without a property"))
    assert committed(table.refresh().metadata) == {"users": FIRST}
    assert loaded is not None
    table.maintenance.expire_snapshots().by_ids([loaded.snapshot_id]).commit()
    with pytest.raises(OffsetHistoryExpired, match="roll the table back"):
        committed(table.refresh().metadata)


def test_many_commits_keep_few_manifests(catalog: Catalog, settings: Settings) -> None:
    table = open_table(catalog, settings, "users")
    with table.transaction() as change:
        change.set_properties({"commit.manifest.min-count-to-merge": "3"})
    start = None
    for number in range(1, 8):
        end = Position("topic", number, {0: number})
        append(table.refresh(), start, end, f"u{number}")
        start = end
    head = table.refresh().current_snapshot()
    assert head is not None
    assert len(head.manifests(table.io)) <= 3
    assert names_in(table) == [f"u{n}" for n in range(1, 8)]


def test_copies_of_the_metadata_share_their_history(
    catalog: Catalog, settings: Settings
) -> None:
    table = open_table(catalog, settings, "users")
    append(table, None, FIRST, "ada")
    before = table.refresh().metadata
    copied = before.model_copy(deep=True)
    assert copied == before
    assert copied.snapshots is not before.snapshots
    assert copied.snapshots[0] is before.snapshots[0]
    assert copied.snapshot_log[0] is before.snapshot_log[0]
    append(table, FIRST, SECOND, "bob")
    assert len(table.refresh().metadata.snapshots) == 2
    assert len(before.snapshots) == len(copied.snapshots) == 1


def test_the_private_api_is_the_one_that_was_measured() -> None:
    """What ``_FencedAppendFiles`` overrides is what pyiceberg calls."""

    def source(function: Callable[..., Any]) -> str:
        return inspect.getsource(function)

    # a new tuple with every update, so that it tells whether there were more
    assert "self._updates += updates" in source(Transaction._stage)
    metadata = source(Transaction.table_metadata.fget)
    assert "update_table_metadata(self._table.metadata, self._updates)" in metadata
    rebuild = source(Transaction._rebuild_snapshot_updates)
    assert rebuild.index("_validate_concurrency()") < rebuild.index("._commit()")
    commit = source(Transaction.commit_transaction)
    assert "_clean_all_uncommitted()" in commit
    assert "self._table.refresh()" in commit
    for name in ("_commit", "_cleanup_uncommitted", "_clean_all_uncommitted"):
        assert hasattr(_SnapshotProducer, name)
    assert "snapshot_properties" in source(_SnapshotProducer._commit)
    assert list(inspect.signature(_MergeAppendFiles).parameters)[:3] == [
        "operation",
        "transaction",
        "io",
    ]
    assert list(inspect.signature(_dataframe_to_data_files).parameters) == [
        "table_metadata",
        "df",
        "io",
        "write_uuid",
        "counter",
    ]
