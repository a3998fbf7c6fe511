"""The dbt adapter ``sparkpy``: Spark in dbt's own process, on Iceberg.

dbt-spark's ``method: session`` with three things added: Python models run in
the session, Iceberg's views are seen, and the catalog follows from Feedloop's
settings, so that pyiceberg and Spark share it without a server.
"""

from __future__ import annotations

from dbt.adapters.base import AdapterPlugin
from dbt.adapters.sparkpy.connections import (
    SparkPyConnectionManager as SparkPyConnectionManager,
)
from dbt.adapters.sparkpy.connections import SparkPyCredentials
from dbt.adapters.sparkpy.impl import SparkPyAdapter
from dbt.include import sparkpy

Plugin = AdapterPlugin(
    adapter=SparkPyAdapter,
    credentials=SparkPyCredentials,
    include_path=sparkpy.PACKAGE_PATH,
    dependencies=["spark"],
    # dbt guesses it from the folder's name, and wrongly: a macro under another
    # name than its project's is never found.
    project_name="dbt_sparkpy",
)
