"""The part ``lists/`` of a build's folder, as batches of columns to encode.

Files come from outside this program: what breaks their contract raises
``BuildInvalid`` before any of it is served.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from exporters.codec import (
    MAX_ITEMS,
    Bytes,
    FeatureLayout,
    Float32s,
    Int64s,
    PackedFeature,
    UInt32s,
    rec_digests,
)
from exporters.keyspace import EntityType, check_surface
from feedloop.contracts import builds
from feedloop.contracts.lists import COLD_USER
from feedloop.contracts.seeds import Feature, Surface
from feedloop.errors import BuildInvalid, ContractError

BATCH_ROWS = 8192
REC_ID_CHARACTERS = 28

_LIST_COLUMNS = (
    "rec_id",
    "user_id",
    "surface",
    "item_ids",
    "scores",
    "build_id",
    "generated_at",
)
_FEATURE_FILES: dict[EntityType, str] = {
    "user": builds.USER_FEATURES_FILE,
    "item": builds.ITEM_FEATURES_FILE,
}


@dataclass(frozen=True)
class ListBatch:
    """Lists of one surface, in the form that ``codec.encode_lists`` takes.

    ``cold`` batches hold cold-start lists, the others never one;
    ``generated_at`` is in microseconds; ``ordinals`` and ``scores`` hold all
    lists one after the other.
    """

    surface: str
    cold: bool
    user_ids: list[bytes]
    digests: Bytes
    generated_at: Int64s
    counts: Int64s
    ordinals: UInt32s
    scores: Float32s


@dataclass(frozen=True)
class FeatureBatch:
    """Features of entities of one type: ``as_of`` (n,) in microseconds,
    ``values`` (n, layout.count), in the order of the registry."""

    entity_ids: list[bytes]
    as_of: Int64s
    values: Float32s


class BuildReader:
    """One build's published lists and features, held to their contracts."""

    def __init__(
        self,
        builds_dir: Path,
        build_id: str,
        surfaces: Mapping[str, Surface],
        registry: Mapping[str, Feature],
    ) -> None:
        """Raises ``BuildInvalid`` where the part is missing, torn, or not that
        of ``build_id`` and of these seeds."""
        self._folder, self.manifest = builds.read_part(
            builds_dir, build_id, builds.LISTS
        )
        self._registry = registry
        if self.manifest.build_id != build_id:
            raise BuildInvalid(
                f"{self._folder} says it is build {self.manifest.build_id}, not "
                f"{build_id}; don't rename builds, run `dbt build` again."
            )
        if not self.manifest.surfaces:
            raise BuildInvalid(
                f"Build {build_id} has no surface; let one serve a list in "
                "seeds/surfaces.csv and run `dbt build` again."
            )
        for surface in self.manifest.surfaces:
            check_surface(surface)
            if surface not in surfaces:
                raise BuildInvalid(
                    f"Build {build_id} has lists of the surface {surface!r}, which "
                    "seeds/surfaces.csv doesn't know; run `dbt build` again."
                )
        for name in (builds.LISTS_FILE, *_FEATURE_FILES.values()):
            if name not in self.manifest.files:
                raise self._invalid(name, "is missing")

    def list_count(self) -> int:
        return self._rows(builds.LISTS_FILE)

    def entity_count(self, entity_type: EntityType) -> int:
        return self._rows(_FEATURE_FILES[entity_type])

    def _rows(self, name: str) -> int:
        with self._parquet(name) as file:
            count: int = file.metadata.num_rows
            return count

    # --- lists ---------------------------------------------------------------

    def item_ids(self) -> Any:
        """The distinct items of all lists, in byte order: an Arrow string
        array whose places are the build's ordinals."""
        found = pa.array([], pa.string())
        with self._parquet(builds.LISTS_FILE, ("item_ids",)) as file:
            for batch in _batches(file, ["item_ids"]):
                items = _dictionary(batch.column("item_ids").flatten())
                used = items.dictionary.take(pc.unique(items.indices).drop_null())
                found = pc.unique(pa.concat_arrays([found, used]))
        return found.take(pc.sort_indices(found))

    def lists(self, item_ids: Any) -> Iterator[ListBatch]:
        """Every list, batch by batch. ``item_ids`` is what the method of that
        name gives."""
        name, surfaces = builds.LISTS_FILE, set(self.manifest.surfaces)
        with self._parquet(name, _LIST_COLUMNS) as file:
            for batch in _batches(file, _LIST_COLUMNS):
                for column in _LIST_COLUMNS:
                    if batch.column(column).null_count:
                        raise self._invalid(name, f"has an empty {column}")
                strangers = set(pc.unique(batch.column("build_id")).to_pylist())
                if strangers - {self.manifest.build_id}:
                    raise self._invalid(name, "holds lists of another build")
                for surface in pc.unique(batch.column("surface")).to_pylist():
                    if surface not in surfaces:
                        raise self._invalid(
                            name,
                            f"has lists of the surface {surface!r}, which the "
                            "manifest doesn't name",
                        )
                    of_surface = pc.equal(batch.column("surface"), surface)
                    of_cold = pc.equal(batch.column("user_id"), COLD_USER)
                    for cold, of_kind in ((True, of_cold), (False, pc.invert(of_cold))):
                        rows = batch.filter(pc.and_(of_surface, of_kind))
                        if rows.num_rows:
                            yield self._list_batch(surface, cold, rows, item_ids)

    def _list_batch(
        self, surface: str, cold: bool, rows: Any, item_ids: Any
    ) -> ListBatch:
        name = builds.LISTS_FILE
        counts = _numpy(pc.list_value_length(rows.column("item_ids")), pa.int64())
        lengths = _numpy(pc.list_value_length(rows.column("scores")), pa.int64())
        if not np.array_equal(counts, lengths) or counts.max(initial=0) > MAX_ITEMS:
            raise self._invalid(name, "has scores that are not parallel to the items")
        items = _dictionary(rows.column("item_ids").flatten())
        scores = rows.column("scores").flatten().cast(pa.float32())
        if items.indices.null_count or scores.null_count:
            raise self._invalid(name, "has an empty item or score inside a list")
        values = _numpy(scores, pa.float32())
        if not np.isfinite(values).all():
            raise self._invalid(name, "has a score that is not a finite number")
        # Only what the batch uses is looked up, not every element of every list.
        places = pc.index_in(items.dictionary, item_ids).fill_null(0)
        ordinals = _numpy(places, pa.uint32())[_numpy(items.indices, pa.int64())]
        try:
            rec_ids = rows.column("rec_id").cast(pa.binary(REC_ID_CHARACTERS))
            digests = rec_digests(_fixed_width(rec_ids))
        except (pa.ArrowInvalid, ContractError) as error:
            raise self._invalid(name, f"has an unusable rec_id ({error})") from error
        return ListBatch(
            surface,
            cold,
            rows.column("user_id").cast(pa.binary()).to_pylist(),
            digests,
            _instants(rows.column("generated_at")),
            counts,
            ordinals,
            values,
        )

    # --- features ------------------------------------------------------------

    def feature_layout(self, entity_type: EntityType) -> FeatureLayout:
        """The registry's batch features of ``entity_type``, in its order, with
        the lengths that this build's vectors have."""
        packed = [
            PackedFeature(
                feature.feature_name,
                1 if feature.width == 1 else self._vector_length(feature),
                feature.width == 1,
                feature.default_value,
                feature.ttl_seconds,
            )
            for feature in self._registry.values()
            if feature.entity_type == entity_type and feature.path != "stream"
        ]
        return FeatureLayout(entity_type, packed)

    def _vector_length(self, feature: Feature) -> int:
        """The one length that a vector's values have, as the registry says or,
        where it leaves that to the data, as they do."""
        name = _FEATURE_FILES[feature.entity_type]
        lengths: set[int] = {feature.width} if feature.width else set()
        with self._parquet(name, (feature.feature_name,)) as file:
            for batch in _batches(file, [feature.feature_name]):
                values = pc.list_value_length(batch.column(0))
                lengths |= set(pc.unique(values.drop_null()).to_pylist())
        if len(lengths) > 1:
            raise self._invalid(
                name,
                f"has values of {feature.feature_name} of different lengths "
                f"({', '.join(map(str, sorted(lengths)))})",
            )
        return lengths.pop() if lengths else 0

    def features(
        self, entity_type: EntityType, layout: FeatureLayout
    ) -> Iterator[FeatureBatch]:
        """Every entity's features, batch by batch; what has no value has the
        registry's default."""
        name, entity = _FEATURE_FILES[entity_type], f"{entity_type}_id"
        columns = [entity, "as_of", *(feature.name for feature in layout.features)]
        with self._parquet(name, columns) as file:
            for batch in _batches(file, columns):
                for column in (entity, "as_of"):
                    if batch.column(column).null_count:
                        raise self._invalid(name, f"has an empty {column}")
                values = np.empty((batch.num_rows, layout.count), np.float32)
                start = 0
                for feature in layout.features:
                    end = start + feature.length
                    values[:, start:end] = feature.default
                    _fill(values[:, start:end], batch.column(feature.name), feature)
                    start = end
                if np.isinf(values).any():
                    raise self._invalid(name, "has a value that is not finite")
                yield FeatureBatch(
                    batch.column(entity).cast(pa.binary()).to_pylist(),
                    _instants(batch.column("as_of")),
                    values,
                )

    # --- files ---------------------------------------------------------------

    @contextmanager
    def _parquet(self, name: str, columns: Iterable[str] = ()) -> Iterator[Any]:
        """The file ``name``, ``columns`` of which are there; what Arrow can't
        read or cast in it is ``BuildInvalid``."""
        path = self._folder / name
        try:
            # Items repeat: read as a dictionary, they are hashed once a file and
            # not once an element.
            items = [
                leaf.path
                for leaf in pq.read_metadata(path).schema
                if leaf.path.startswith("item_ids.")
            ]
            with pq.ParquetFile(path, read_dictionary=items) as file:
                missing = set(columns) - set(file.schema_arrow.names)
                if missing:
                    raise self._invalid(
                        name, f"has no column {', '.join(sorted(missing))}"
                    )
                yield file
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise self._invalid(name, f"can't be read ({error})") from error

    def _invalid(self, name: str, what: str) -> BuildInvalid:
        return BuildInvalid(f"{self._folder / name} {what}; run `dbt build` again.")


def _batches(file: pq.ParquetFile, columns: Sequence[str]) -> Iterator[Any]:
    """The rows of ``file``, no batch across row groups: each has a dictionary of
    its own, and Arrow can't put two into one column of lists."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(
            BATCH_ROWS, row_groups=[group], columns=list(columns)
        )


def _dictionary(values: Any) -> Any:
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    return pa.DictionaryArray.from_arrays(
        values.indices, values.dictionary.cast(pa.string())
    )


def _numpy(values: Any, arrow_type: Any) -> Any:
    return values.cast(arrow_type).to_numpy(zero_copy_only=False)


def _instants(values: Any) -> Int64s:
    """Microseconds since 1970."""
    instants: Int64s = _numpy(
        values.cast(pa.timestamp("us", "UTC"), safe=False), pa.int64()
    )
    return instants


def _fixed_width(values: Any) -> Bytes:
    """An Arrow array of n binaries of one width as (n, width) bytes."""
    width = values.type.byte_width
    start = values.offset * width
    data = np.frombuffer(values.buffers()[1], np.uint8)
    return data[start : start + len(values) * width].reshape(len(values), width)


def _fill(into: Float32s, column: Any, feature: PackedFeature) -> None:
    """Put the values of ``column`` where it has some: ``into`` is (n, length),
    a view, and holds the defaults."""
    if feature.scalar:
        flat, rows = column, np.arange(len(column))
    else:
        flat, rows = (
            pc.list_flatten(column),
            np.flatnonzero(_numpy(column.is_valid(), pa.bool_())),
        )
    values = (
        flat.cast(pa.float64()).fill_null(float("nan")).to_numpy(zero_copy_only=False)
    )
    values = values.reshape(len(rows), feature.length)
    into[rows] = np.where(np.isnan(values), into[rows], values)
