"""The dbt graph keeps the project's rules: layers, grain, names, exposures."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporters.keyspace import KEYS
from exporters.serving import create_app
from feedloop.cli.dbt_run import run_dbt
from feedloop.clock import FixedClock
from feedloop.contracts.seeds import read_features
from feedloop.settings import Settings, from_environment
from tests.conftest import Project
from tests.support import checkerboard

ROOT = Path(__file__).resolve().parents[2]

LAYERS = [
    "staging",
    "features",
    "snapshots",
    "embeddings",
    "training",
    "ranker",
    "recommendations",
    "monitoring",
]
"""In the order in which refs may point back."""

PREFIXES = {
    "staging": {"stg"},
    "features": {"int", "tile", "feat", "dim"},
    "snapshots": {"snap"},
    "embeddings": {"emb"},
    "training": {"train", "fct"},
    "ranker": {"rank"},
    "recommendations": {"rec"},
    "monitoring": {"mon"},
}
UNIQUE_TESTS = {"unique", "unique_together"}
MOST_LINES_OF_A_PYTHON_MODEL = 25

# Written by the export for its own use, or by others than the warehouse.
KEYS_THAT_NO_MODEL_FILLS = {"meta", "fresh", "inactive"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("manifest")
    return from_environment({}, home=str(home), namespace="t1")


@pytest.fixture(scope="module")
def manifest(settings: Settings) -> Any:
    return run_dbt(settings, "parse", "--warn-error").result


@pytest.fixture(scope="module")
def nodes(manifest: Any) -> dict[str, Any]:
    """Models and snapshots by unique id."""
    kinds = ("model", "snapshot")
    return {
        node.unique_id: node
        for node in manifest.nodes.values()
        if node.resource_type in kinds
    }


class KeysOnce(yaml.SafeLoader):
    """YAML lets a later key replace an earlier one without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: {keys}"
        return super().construct_mapping(node, deep)


def test_no_key_stands_twice() -> None:
    folders = ("models", "python_models", "macros", "seeds", "snapshots")
    paths = [*ROOT.glob("*.yml")]
    paths += [path for folder in folders for path in (ROOT / folder).rglob("*.yml")]
    assert ROOT / "profiles.yml" in paths
    for path in paths:
        yaml.load(path.read_text(), KeysOnce)


# What follows from other columns and the hour, and would store everybody nightly.
NOT_IN_HISTORY = {
    "item_age_days",
    "item_trending",
    "item_trending_1h",
    "item_trending_10m",
    "user_hours_since_engaged",
}


def test_the_history_has_every_feature(manifest: Any, settings: Settings) -> None:
    kept = {
        column
        for node in manifest.nodes.values()
        if node.resource_type == "snapshot"
        for column in node.config.check_cols
    }
    registry = read_features(Path(settings.project_dir) / "seeds").values()
    batch = {f.feature_name for f in registry if f.path != "stream"}
    assert batch - kept == NOT_IN_HISTORY


def test_every_feature_has_a_unit_test(manifest: Any, settings: Settings) -> None:
    counted = {
        name
        for test in manifest.unit_tests.values()
        if test.model.startswith("feat_")
        for row in test.expect.rows
        for name in row
    }
    registry = read_features(Path(settings.project_dir) / "seeds").values()
    batch = {f.feature_name for f in registry if f.path != "stream"}
    assert batch - counted == set()


def layer(node: Any) -> str:
    return "snapshots" if node.resource_type == "snapshot" else str(node.fqn[1])


def test_refs_point_one_way(nodes: dict[str, Any]) -> None:
    backwards = [
        f"{node.name} ({layer(node)}) reads {nodes[other].name}"
        for node in nodes.values()
        for other in node.depends_on.nodes
        if other in nodes
        and LAYERS.index(layer(nodes[other])) > LAYERS.index(layer(node))
    ]
    assert backwards == []


def test_nothing_reads_monitoring(nodes: dict[str, Any]) -> None:
    readers = [
        node.name
        for node in nodes.values()
        for other in node.depends_on.nodes
        if other in nodes and layer(nodes[other]) == "monitoring"
    ]
    assert readers == []


def test_only_staging_reads_sources(nodes: dict[str, Any]) -> None:
    readers = {
        layer(node)
        for node in nodes.values()
        for other in node.depends_on.nodes
        if other.startswith("source.")
    }
    assert readers == {"staging"}


def test_a_names_prefix_is_its_layer(nodes: dict[str, Any]) -> None:
    odd = [
        node.name
        for node in nodes.values()
        if node.name.partition("_")[0] not in PREFIXES[layer(node)]
    ]
    assert odd == []
    assert {layer(node) for node in nodes.values()} == set(LAYERS)


def test_a_description_opens_with_the_grain(manifest: Any) -> None:
    without = [
        node.name
        for node in manifest.nodes.values()
        if node.resource_type in ("model", "snapshot", "seed")
        and not node.description.startswith("One row per ")
    ]
    assert without == []


def test_the_grain_is_held_by_a_uniqueness_test(manifest: Any) -> None:
    tested = {
        node.attached_node
        for node in manifest.nodes.values()
        if node.resource_type == "test"
        and hasattr(node, "test_metadata")
        and node.test_metadata.name in UNIQUE_TESTS
    }
    untested = [
        node.name
        for node in manifest.nodes.values()
        if node.resource_type in ("model", "snapshot", "seed")
        and node.unique_id not in tested
    ]
    assert untested == []


def test_every_column_is_documented(
    built_project: Project, nodes: dict[str, Any]
) -> None:
    columns: dict[str, set[str]] = {}
    for table, column in built_project.query(
        "select table_name, column_name from information_schema.columns "
        f"where table_schema = '{built_project.settings.namespace}'"
    ):
        columns.setdefault(table, set()).add(column)
    for node in nodes.values():
        if node.resource_type != "model":
            continue  # a snapshot's are its model's and dbt's own
        described = {name for name, c in node.columns.items() if c.description}
        assert described == columns[node.name], node.name


def test_the_columns_of_what_leaves_the_warehouse_are_enforced(
    manifest: Any, nodes: dict[str, Any]
) -> None:
    leaving = {
        nodes[unique_id].name: nodes[unique_id]
        for exposure in manifest.exposures.values()
        for unique_id in exposure.depends_on.nodes
        if nodes[unique_id].language == "sql"
    }
    assert leaving.keys() >= {"rec_lists", "feat_users", "feat_items"}
    loose = [name for name, node in leaving.items() if not node.contract.enforced]
    assert loose == []


def test_every_key_space_has_an_exposure(manifest: Any) -> None:
    described = " ".join(
        exposure.description
        for exposure in manifest.exposures.values()
        if exposure.name.startswith("redis_")
    )
    named = set(re.findall(r"`(\w+)`", described))
    assert named == set(KEYS) - KEYS_THAT_NO_MODEL_FILLS


def test_every_api_has_an_exposure(manifest: Any) -> None:
    # The app connects when it is first asked; its routes need no server.
    settings = from_environment({}, redis_url="redis://localhost:1")
    app = create_app(settings, FixedClock(checkerboard.END))
    paths = {
        "GET " + re.sub(r":\w+}", "}", route.path)
        for route in app.routes
        if route.path.startswith(("/recommendations", "/features"))
    }
    labels = {
        exposure.label
        for exposure in manifest.exposures.values()
        if exposure.name.startswith("api_")
    }
    assert paths
    assert labels == paths


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "python_models").rglob("*.py")),
    ids=lambda path: path.stem,
)
def test_a_python_model_is_a_few_lines(path: Path) -> None:
    (model,) = [
        node
        for node in ast.parse(path.read_text()).body
        if not isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert isinstance(model, ast.FunctionDef), "one function and nothing beside it"
    assert model.end_lineno is not None
    lines = model.end_lineno - model.lineno + 1
    assert lines <= MOST_LINES_OF_A_PYTHON_MODEL
