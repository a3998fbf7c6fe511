"""The Soda contracts hold on what a build makes, and catch what breaks them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from soda_core.contracts import verify_contract_locally
from soda_core.contracts.contract_verification import (
    CheckOutcome,
    ContractVerificationResult,
)
from soda_core.telemetry.soda_telemetry import SodaTelemetry
from soda_duckdb.common.data_sources.duckdb_data_source import DuckDBDataSourceImpl

from loaders.duckdb_plugin import load_extensions
from tests.conftest import Project

SODA = Path(__file__).resolve().parents[2] / "soda"
CONTRACTS = {
    "raw_events": "t1_raw.events",
    "user_features": "t1.feat_users",
    "item_features": "t1.feat_items",
    "lists": "t1.rec_lists",
}
SEEDS = ("t1.event_types", "t1.surfaces")


@pytest.fixture
def warehouse(built_project: Project) -> Iterator[duckdb.DuckDBPyConnection]:
    """Copies of the tables under contract, free to be spoilt."""
    with duckdb.connect() as connection:
        load_extensions(connection)
        connection.execute("set TimeZone = 'UTC'")
        path = built_project.settings.duckdb_path
        connection.execute(f"attach '{path}' as built (read_only)")
        connection.execute("create schema t1; create schema t1_raw")
        for table in (*CONTRACTS.values(), *SEEDS):
            connection.execute(f"create table {table} as from built.{table}")
        # Soda looks columns up by schema and table, in every attached database.
        connection.execute("detach built")
        yield connection


def verify(
    connection: duckdb.DuckDBPyConnection, contract: str
) -> ContractVerificationResult:
    source = DuckDBDataSourceImpl.from_existing_cursor(connection, "warehouse")
    session = verify_contract_locally(
        data_sources=[source],
        contract_file_path=str(SODA / f"{contract}.yml"),
        variables={"namespace": "t1"},
    )
    assert not session.has_errors, session.get_errors_str()
    (result,) = session.contract_verification_results
    return result


def broken_checks(result: ContractVerificationResult) -> set[str]:
    return {
        check.check.name
        for check in result.check_results
        if check.outcome is not CheckOutcome.PASSED
    }


def test_telemetry_is_off() -> None:
    assert not SodaTelemetry().soda_config.soda_core_telemetry_enabled


def test_every_contract_is_known_here() -> None:
    assert {path.stem for path in SODA.glob("*.yml")} == set(CONTRACTS)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_what_a_build_makes_keeps_its_contract(
    warehouse: duckdb.DuckDBPyConnection, contract: str
) -> None:
    result = verify(warehouse, contract)
    assert broken_checks(result) == set()
    assert len(result.check_results) > 10


VIOLATIONS = [
    ("raw_events", "update {} set event_type = 'shrug'", "The type is a row"),
    ("raw_events", "insert into {} from {} limit 1", "A place in the log"),
    ("raw_events", "update {} set user_id = null", "No missing"),
    ("raw_events", "update {} set page_position = -1", "No invalid"),
    ("raw_events", "update {} set user_id = repeat('ü', 65)", "Ids have at most"),
    ("raw_events", "update {} set rec_id = 'rec_1'", "Only a response"),
    ("raw_events", "alter table {} drop column context", "Schema"),
    ("user_features", "update {} set user_ctr_30d = null", "No missing"),
    (
        "user_features",
        "update {} set available_at = as_of - interval 1 second",
        "A feature is known",
    ),
    (
        "user_features",
        "update {} set user_category_affinity = [0.5, 0.6]",
        "Shares of categories",
    ),
    ("item_features", "update {} set item_age_days = -1", "No invalid"),
    ("item_features", "update {} set item_popularity_1d = 1e9", "A longer window"),
    ("lists", "update {} set item_ids = []", "No list is empty"),
    ("lists", "update {} set scores = scores[2:]", "What is said"),
    (
        "lists",
        "update {} set item_ids = [item_ids[2]] || item_ids[2:]",
        "No item stands twice",
    ),
    ("lists", "update {} set propensities = [0] || propensities[2:]", "A propensity"),
    ("lists", "update {} set model_version = 'other'", "The build names"),
    ("lists", "update {} set surface = 'attic'", "The surface is a row"),
    ("lists", "alter table {} add column note varchar", "Schema"),
    ("lists", "delete from {}", "Row count"),
]


@pytest.mark.parametrize(("contract", "spoil", "check"), VIOLATIONS)
def test_a_planted_violation_is_caught(
    warehouse: duckdb.DuckDBPyConnection, contract: str, spoil: str, check: str
) -> None:
    table = CONTRACTS[contract]
    warehouse.execute(spoil.format(table, table))
    broken = broken_checks(verify(warehouse, contract))
    assert any(name.startswith(check) for name in broken), broken
