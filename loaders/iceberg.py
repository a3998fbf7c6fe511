"""The raw tables on Iceberg, and the one way to append to them.

Where a stream was loaded up to stands in the summary of the commit that loaded
it, so that rows and offsets are stored together or not at all. The append is
fenced: a commit that would build on a head with other offsets than it started
from is refused, on the first attempt and on each retry.

This uses private API of pyiceberg 0.12; ``test_iceberg.py`` holds what it
relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pyarrow as pa
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NotInstalledError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, ManifestContent, ManifestFile
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import (
    MetadataLogEntry,
    Operation,
    Snapshot,
    SnapshotLogEntry,
    ancestors_of,
)
from pyiceberg.table.update import TableUpdate, UpdatesAndRequirements
from pyiceberg.table.update.snapshot import (
    _ManifestMergeManager,
    _MergeAppendFiles,
    _OverwriteFiles,
    _SnapshotProducer,
)
from pyiceberg.table.update.validate import _validate_no_new_deletes_for_data_files
from pyiceberg.transforms import DayTransform
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from feedloop.contracts.tables import RAW_TABLES, RawTable
from feedloop.errors import (
    Fenced,
    OffsetHistoryExpired,
    SettingsError,
    TablesUnavailable,
)
from feedloop.settings import Settings
from loaders.data_files import write_files

LOADS = "feedloop.loads"
"""The summary property with the ``Position`` of every stream of a table."""

MANIFEST_BYTES = 8 << 20
SQLITE_BUSY_S = 30
ENSURE_ATTEMPTS = 5
DEEPCOPY = "__deepcopy__"
FORMAT = ("format-version", "2")
PROPERTIES = {
    FORMAT[0]: FORMAT[1],
    "write.parquet.compression-codec": "zstd",
    # commits stay quick however many there are
    "commit.manifest-merge.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    # Old metadata files go by age (loaders/orphans.py) and not by number: a dbt
    # run reads the one that it began with to its end.
    "write.metadata.delete-after-commit.enabled": "false",
    # The attempt after the last is the one that pyiceberg can't recover from.
    "commit.retry.num-retries": "10",
    "commit.retry.min-wait-ms": "50",
    "commit.retry.max-wait-ms": "2000",
}


class Position(msgspec.Struct, frozen=True):
    """How far a stream was loaded: the next offset of every partition.

    ``load_seq`` counts the stream's commits from 1.
    """

    topic_id: str
    load_seq: int
    offsets: dict[int, int]


_positions = msgspec.json.Decoder(dict[str, Position])


# --- catalog and tables ------------------------------------------------------


@contextmanager
def answering() -> Iterator[None]:
    """A catalog's database that does not answer, as ``TablesUnavailable``."""
    try:
        yield
    except OperationalError as error:
        raise TablesUnavailable(
            f"The Iceberg catalog does not answer ({error.orig}); see that its "
            "database runs and that FEEDLOOP_CATALOG_URI names it, and try again."
        ) from error


def open_catalog(settings: Settings) -> Catalog:
    """The Iceberg catalog. Raises ``TablesUnavailable`` where it doesn't answer,
    and ``SettingsError`` where there is no such catalog."""
    uri = settings.iceberg_catalog_uri
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        uri += f"?timeout={SQLITE_BUSY_S}"
    properties = {
        "uri": uri,
        "warehouse": settings.iceberg_warehouse_uri,
        # a server that was away left dead connections in the pool
        "pool_pre_ping": "true",
    }
    try:
        return load_catalog(settings.catalog_name, **properties)
    except NotInstalledError as error:
        raise SettingsError(
            "What FEEDLOOP_CATALOG_URI needs is not installed "
            f"({error.__cause__}); for PostgreSQL: pip install 'feedloop[postgres]'."
        ) from error
    except DatabaseError:
        # Another process may be making the catalog's own tables just now.
        try:
            with answering():
                return load_catalog(settings.catalog_name, **properties)
        except DatabaseError as error:
            raise SettingsError(
                f"The Iceberg catalog can't be opened ({error.orig}); check "
                "FEEDLOOP_CATALOG_URI."
            ) from error


def open_table(catalog: Catalog, settings: Settings, name: str) -> Table:
    with answering():
        return catalog.load_table((settings.raw_schema, name))


def ensure_tables(catalog: Catalog, settings: Settings) -> None:
    """Create the raw tables that are missing, add columns that contracts gained
    and properties that ``PROPERTIES`` did.

    Old files read a new column as null; nothing is rewritten.
    """
    for raw in RAW_TABLES.values():
        for attempt in range(1, ENSURE_ATTEMPTS + 1):
            try:
                with answering():
                    _ensure(catalog, (settings.raw_schema, raw.name), raw)
                break
            except (CommitFailedException, TableAlreadyExistsError, IntegrityError):
                # another process makes the same change at the same time
                if attempt == ENSURE_ATTEMPTS:
                    raise


def _ensure(catalog: Catalog, identifier: tuple[str, str], raw: RawTable) -> None:
    catalog.create_namespace_if_not_exists(identifier[:1])
    if not catalog.table_exists(identifier):
        create_table(catalog, identifier, raw, {})
    table = catalog.load_table(identifier)
    if not set(raw.schema.names) <= set(table.schema().column_names):
        with table.update_schema() as update:
            update.union_by_name(raw.schema)
    if not PROPERTIES.items() - {FORMAT} <= table.properties.items():
        with table.transaction() as change:
            change.set_properties(dict(PROPERTIES.items() - {FORMAT}))


def create_table(
    catalog: Catalog,
    identifier: tuple[str, str],
    raw: RawTable,
    properties: dict[str, str],
) -> None:
    """Create a table like ``raw``, with ``properties`` besides ours, in one
    commit. Raises pyiceberg's ``TableAlreadyExistsError``."""
    transaction = catalog.create_table_transaction(
        identifier, raw.schema, properties=PROPERTIES | properties
    )
    with transaction:
        if raw.partition_by is not None:
            with transaction.update_spec() as spec:
                spec.add_field(
                    raw.partition_by, DayTransform(), f"{raw.partition_by}_day"
                )


# --- where a stream was loaded up to -----------------------------------------


def committed(metadata: TableMetadata) -> Mapping[str, Position]:
    """The position of every stream that was ever loaded into the table.

    It is read from the newest ancestor of the head that carries it. Raises
    ``OffsetHistoryExpired`` where that snapshot may have been expired.
    """
    oldest = None
    for snapshot in ancestors_of(metadata.current_snapshot(), metadata):
        summary = snapshot.summary
        text = summary.additional_properties.get(LOADS) if summary else None
        if text is not None:
            return _positions.decode(text)
        oldest = snapshot
    # pyiceberg's expiry cuts the link to a parent, Java's leaves it dangling.
    if oldest is not None and (
        oldest.parent_snapshot_id or oldest.sequence_number != 1
    ):
        raise OffsetHistoryExpired(
            f"The snapshot of {metadata.location} that held the loaded offsets was "
            "expired, so that it is not known where to go on; roll the table back "
            f"to a snapshot that has the property {LOADS}, or read all that the log "
            "has once more with `feedloop load --accept-loss STREAM`."
        )
    return {}


# --- the fenced append -------------------------------------------------------


class Fence(Protocol):
    """What a commit must find on the head that it builds on.

    ``check`` raises pyiceberg's ``ValidationException`` where it may not;
    ``summary`` is what the commit then says of itself.
    """

    def check(self, metadata: TableMetadata) -> None: ...

    def summary(self, metadata: TableMetadata) -> dict[str, str]: ...


class OffsetFence:
    """Lets a stream go on from ``start`` (None: never loaded) to ``end`` only."""

    def __init__(self, stream: str, start: Position | None, end: Position) -> None:
        self._stream = stream
        self._start = start
        self._end = end

    def check(self, metadata: TableMetadata) -> None:
        if committed(metadata).get(self._stream) != self._start:
            raise ValidationException(f"{self._stream} was loaded by another process")

    def summary(self, metadata: TableMetadata) -> dict[str, str]:
        # The other streams' positions go along: the head must hold them all.
        return with_position(committed(metadata), self._stream, self._end)


def with_position(
    positions: Mapping[str, Position], stream: str, end: Position
) -> dict[str, str]:
    """The summary of a commit that leaves ``stream`` at ``end``."""
    return _loads(dict(positions) | {stream: end})


class HeadFence:
    """Lets a commit build only on the head on which its author looked."""

    def __init__(self, table: Table) -> None:
        self._seen = _head(table.metadata)

    def check(self, metadata: TableMetadata) -> None:
        if _head(metadata) != self._seen:
            raise ValidationException("another process committed in between")

    def summary(self, metadata: TableMetadata) -> dict[str, str]:
        return _loads(committed(metadata))


def _head(metadata: TableMetadata) -> int | None:
    snapshot = metadata.current_snapshot()
    return snapshot.snapshot_id if snapshot else None


class OffsetsKept:
    """Lets a commit build on any head, whose offsets it carries along."""

    def check(self, metadata: TableMetadata) -> None:
        committed(metadata)

    def summary(self, metadata: TableMetadata) -> dict[str, str]:
        return _loads(committed(metadata))


def _loads(positions: Mapping[str, Position]) -> dict[str, str]:
    """Also where there are none, so that older snapshots may be expired."""
    return {LOADS: msgspec.json.encode(positions).decode()}


class _PendingCommit:
    """Files for one commit: ``add`` writes them, ``commit`` makes them count."""

    def __init__(self, table: Table, producer: type[_FencedFiles]) -> None:
        self._table = table
        self._transaction = LeanTransaction(table)
        self._producer = producer(self._transaction, table.io)
        self._files = 0
        self.rows = 0

    def add(self, rows: pa.Table) -> list[DataFile]:
        """Write ``rows`` to files of their partitions; nobody sees them yet."""
        files = write_files(self._table, rows, self._producer.commit_uuid, self._files)
        self._files += len(files)
        for file in files:
            self._producer.append_data_file(file)
        self.rows += rows.num_rows
        return files

    def commit(self, fence: Fence) -> None:
        """Make the files part of the table, or raise ``Fenced``."""
        self._producer.fence = fence
        with refusals(self._table):
            self._producer.commit()
            self._transaction.commit_transaction()


class FencedAppend(_PendingCommit):
    """New rows."""

    def __init__(self, table: Table) -> None:
        super().__init__(table, _FencedAppendFiles)


class FencedRewrite(_PendingCommit):
    """Files for others, in one commit.

    What is appended meanwhile stays. ``commit`` raises ``Fenced`` where one of
    the old files is gone or got deletes of its own.
    """

    def __init__(self, table: Table) -> None:
        super().__init__(table, _FencedRewriteFiles)

    def replace(self, old: Iterable[DataFile], new: Iterable[DataFile] = ()) -> None:
        """Take ``old`` out, and ``new``, which are written already, in."""
        for file in old:
            self._producer.delete_data_file(file)
        for file in new:
            self._producer.append_data_file(file)


@contextmanager
def refusals(table: Table) -> Iterator[None]:
    """What a catalog refuses, as ``Fenced``."""
    name = ".".join(table.name())
    try:
        yield
    except (CommitFailedException, ValidationException) as error:
        raise Fenced(
            f"Another process committed to {name} first, and this commit was "
            "left out; run it again and it goes on from there."
        ) from error
    except CommitStateUnknownException as error:
        raise Fenced(
            f"The catalog did not say whether the commit to {name} landed; run "
            "it again, the table's offsets tell."
        ) from error
    except OperationalError as error:
        raise Fenced(
            f"The catalog failed in the commit to {name} ({error.orig}); see that its "
            "database answers and run it again, the table's offsets tell whether it "
            "landed."
        ) from error
    except ValueError as error:
        # what pyiceberg raises when two branches commit at once
        if "Cannot add snapshot with sequence number" not in str(error):
            raise
        raise Fenced(
            f"Another branch of {name} was committed at the same instant; run it again."
        ) from error


def share_snapshots() -> None:
    """Let copies of a table's metadata hold the same snapshots and log entries.

    pyiceberg copies the metadata deeply twice a commit, though what is in the
    lists of its history never changes; with the snapshots of six hours that is
    half of what a small commit costs.
    """

    def itself(entry: object, _: object = None) -> object:
        return entry

    for kind in (Snapshot, SnapshotLogEntry, MetadataLogEntry):
        setattr(kind, DEEPCOPY, itself)


share_snapshots()


class LeanTransaction(Transaction):
    """pyiceberg's transaction, without a copy of all metadata, snapshots and
    all, each time that one of them is asked for: seventeen a commit."""

    _made: tuple[TableMetadata, tuple[TableUpdate, ...], TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        base, updates = self._table.metadata, self._updates
        if not updates:
            return base
        made = self._made
        if made is None or made[0] is not base or made[1] is not updates:
            made = self._made = base, updates, super().table_metadata
        return made[2]


class _FencedFiles(_SnapshotProducer[Any]):
    """pyiceberg's commit, which by itself retries onto any head.

    It deletes no file when it fails: a commit whose reply was lost may have
    landed, and its manifests with it. Orphan removal finds what is left over.
    """

    fence: Fence
    operation: Operation

    def __init__(self, transaction: Transaction, io: FileIO) -> None:
        super().__init__(self.operation, transaction, io)

    def _commit(self) -> UpdatesAndRequirements:
        metadata = self._transaction.table_metadata
        self.fence.check(metadata)
        self.snapshot_properties = self.fence.summary(metadata)
        return super()._commit()

    def _validate_concurrency(self) -> None:
        self.fence.check(self._transaction.table_metadata)

    def _clean_all_uncommitted(self) -> None:
        pass

    def _cleanup_uncommitted(self) -> None:
        pass


class _FencedAppendFiles(_FencedFiles, _MergeAppendFiles):
    """pyiceberg's append, fenced."""

    operation = Operation.APPEND


class _FencedRewriteFiles(_FencedFiles, _OverwriteFiles):
    """pyiceberg's overwrite of named files, fenced.

    pyiceberg refuses each attempt that does not find all old files on the head
    (``_validate_required_deletes``). Its own check of concurrency would refuse
    an append in between as well.
    """

    operation = Operation.OVERWRITE

    def _validate_concurrency(self) -> None:
        super()._validate_concurrency()
        window = self._commit_window
        if window is None or window.head is None or window.is_empty():
            return
        _validate_no_new_deletes_for_data_files(
            self._transaction._table,
            window.head,
            None,
            self._deleted_data_files,
            window.base,
        )

    def _build_manifest_evaluator(self, spec_id: int) -> Callable[[ManifestFile], bool]:
        # Without a partition there is nothing to tell manifests apart by, and
        # pyiceberg would then look for the old files in none of them.
        if self.spec(spec_id).is_unpartitioned():
            return lambda manifest: True
        return super()._build_manifest_evaluator(spec_id)

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        """Merge all small manifests: who compacts files compacts these too."""
        data = [one for one in manifests if one.content == ManifestContent.DATA]
        merging: _ManifestMergeManager[Any] = _ManifestMergeManager(
            target_size_bytes=MANIFEST_BYTES,
            min_count_to_merge=2,
            merge_enabled=True,
            snapshot_producer=self,
        )
        others = [one for one in manifests if one.content != ManifestContent.DATA]
        return merging.merge_manifests(data) + others
