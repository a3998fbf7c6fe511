"""Soda reads this when it is imported, and reports home unless told not to."""

from __future__ import annotations

import os

os.environ["SODA_CORE_TELEMETRY_ENABLED"] = "false"
