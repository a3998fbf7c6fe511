"""A virtual environment for each peer: what it needs never meets what we need."""

from __future__ import annotations

import shutil
import sys
from hashlib import sha256
from pathlib import Path

from benchmarks.support.measure import run_command
from benchmarks.support.report import ROOT

ENVIRONMENTS = ROOT / ".feedloop-cache" / "environments"


def environment(name: str) -> Path:
    """The Python of an environment with ``requirements/bench-NAME.txt``.

    It is made once, and anew where the requirements changed.
    """
    requirements = ROOT / "requirements" / f"bench-{name}.txt"
    digest = sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = ENVIRONMENTS / f"{name}-{digest}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        run_command([sys.executable, "-m", "venv", folder])
        run_command(
            [
                *(sys.executable, "-m", "uv", "pip", "install", "--quiet"),
                # as ours is: else each start would compile what it imports
                *("--compile-bytecode", "--python", python),
                *("--require-hashes", "-r", requirements),
            ]
        )
        (folder / "ready").touch()
    return python
