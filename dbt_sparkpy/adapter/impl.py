"""The adapter: Python models in the session, Iceberg's views in the cache."""

from __future__ import annotations

import traceback
from typing import Any

from dbt.adapters.base import BaseRelation, PythonJobHelper
from dbt.adapters.contracts.relation import RelationType
from dbt.adapters.spark import SparkAdapter
from dbt.adapters.sparkpy.connections import (
    SparkPyConnectionManager,
    SparkPyCredentials,
)
from dbt.adapters.sparkpy.session import spark_session
from dbt_common.exceptions import DbtRuntimeError


class SessionPythonJobHelper(PythonJobHelper):
    """Runs a compiled Python model in this process, on its session."""

    def __init__(
        self, parsed_model: dict[str, Any], credentials: SparkPyCredentials
    ) -> None:
        self.model = parsed_model
        self.credentials = credentials

    def submit(self, compiled_code: str) -> None:
        """Execute ``compiled_code``, which writes the model's table.

        Raises ``DbtRuntimeError`` with the model's own traceback.
        """
        path = self.model["original_file_path"]
        scope = {
            "__name__": f"dbt_model_{self.model['alias']}",
            "spark": spark_session(self.credentials.server_side_parameters),
        }
        code = compile(compiled_code, f"<dbt python model {path}>", "exec")
        try:
            exec(code, scope)
        except Exception as error:  # a model may raise anything: dbt reports it
            raise DbtRuntimeError(
                f"The Python model {path} failed:\n{traceback.format_exc()}"
            ) from error


class SparkPyAdapter(SparkAdapter):
    ConnectionManager = SparkPyConnectionManager

    @property
    def default_python_submission_method(self) -> str:
        return "session"

    @property
    def python_submission_helpers(self) -> dict[str, type[PythonJobHelper]]:
        return {"session": SessionPythonJobHelper}

    def list_relations_without_caching(
        self, schema_relation: BaseRelation
    ) -> list[BaseRelation]:
        """Tables and views: Iceberg keeps views where SHOW TABLES doesn't look."""
        found = super().list_relations_without_caching(schema_relation)
        schema = schema_relation.schema
        if not found and not self.check_schema_exists(None, schema):
            return found
        _, rows = self.execute(f"show views in {schema}", fetch=True)
        tables = {relation.identifier for relation in found}
        views = [
            self.Relation.create(schema=schema, identifier=name, type=RelationType.View)
            for _namespace, name, is_temporary, *_ in rows
            if not is_temporary and name not in tables
        ]
        return found + views
