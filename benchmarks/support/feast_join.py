"""Feast's point-in-time join, run with the Python of its own environment.

``python feast_join.py STORE FOLDER OUT`` joins the labels of ``FOLDER`` to the
values of users and items there by ``get_historical_features``, with the offline
store named, and writes what it gives to ``OUT``. It prints the CPU-seconds and
seconds of the join alone, without imports and the registry, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64


def view(folder: Path, entity_type: str, names: list[str]) -> FeatureView:
    return FeatureView(
        name=f"of_{entity_type}",
        entities=[Entity(name=entity_type, join_keys=[f"{entity_type}_id"])],
        ttl=timedelta(0),  # for ever
        schema=[Field(name=name, dtype=Float64) for name in names],
        source=FileSource(
            path=str(folder / f"{entity_type}s.parquet"),
            timestamp_field="event_timestamp",
        ),
    )


def main(store_type: str, folder: Path, out: Path) -> None:
    named = json.loads((folder / "features.json").read_text())
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=str(folder / f"registry_{store_type}.db"),
            offline_store={"type": store_type},
            online_store=None,
            entity_key_serialization_version=3,
        )
    )
    views = [view(folder, entity, names) for entity, names in named.items()]
    store.apply([Entity(name=name, join_keys=[f"{name}_id"]) for name in named] + views)
    labels = pq.read_table(folder / "labels.parquet").to_pandas()
    features = [f"of_{entity}:{name}" for entity in named for name in named[entity]]
    wall, cpu = time.perf_counter(), time.process_time()
    found = store.get_historical_features(labels, features).to_df()
    took = {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
    }
    found.to_parquet(out)
    print(json.dumps(took))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
