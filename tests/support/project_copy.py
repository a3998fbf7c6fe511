"""The dbt project, copied, for tests that change it."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    "dbt_project.yml",
    "profiles.yml",
    "selectors.yml",
    "models",
    "python_models",
    "macros",
    "seeds",
    "snapshots",
    "tests/dbt",
)


def copy_project(folder: Path) -> Path:
    """All that dbt reads, in ``folder``, which is made."""
    for part in PARTS:
        source, target = ROOT / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    return folder
