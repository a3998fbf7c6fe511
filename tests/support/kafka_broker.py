"""A real one-node Apache Kafka in KRaft mode, for tests.

::

    with KafkaBroker(tmp_path / "kafka") as broker:
        KafkaProducer(bootstrap_servers=broker.bootstrap)
        broker.kill()
        broker.start()  # the same data and the same port
"""

from __future__ import annotations

import base64
import errno
import os
import secrets
import signal
import socket
import subprocess
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from tests.support.jvm import fetch_jars, java

COORDINATES = ("org.apache.kafka:kafka_2.13:4.4.0", "org.slf4j:slf4j-simple:1.7.36")
JVM_OPTIONS = (
    *("-Xms96m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
    *("-Xshare:auto", "-Djava.awt.headless=true"),
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server=info",
)
READY = b"Kafka Server started"
PORTS = range(20_000, 32_000)
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 30


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on.

    They lie below those that the system hands out by itself: between this and
    the broker's start, or its restart, no other process is given one of them.
    """
    with ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            port = secrets.choice(PORTS)
            bound = stack.enter_context(socket.socket())
            try:
                bound.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                ports.append(port)
        return ports


class KafkaBroker:
    """Broker and controller in one process, below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port, self._controller_port = free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "broker.log"

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> KafkaBroker:
        """Returns once clients are served."""
        self._write_config()
        classpath = os.pathsep.join(map(str, fetch_jars(*COORDINATES)))
        config = str(self._folder / "server.properties")
        with self._log.open("ab") as log:
            already = log.tell()
            self._process = subprocess.Popen(
                [java(), *JVM_OPTIONS, "-cp", classpath, "kafka.Kafka", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in pytest must not reach it
            )
        self._await_ready(self._process, already)
        return self

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Connections are still taken, and nothing on them is answered."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> KafkaBroker:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _write_config(self) -> None:
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        endpoint = f"PLAINTEXT://127.0.0.1:{self._port}"
        controller = f"127.0.0.1:{self._controller_port}"
        config = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"{endpoint},CONTROLLER://{controller}",
            "advertised.listeners": endpoint,
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
            ),
            "log.dirs": data,
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            # compaction looks for work each 15 s by default
            "log.cleaner.backoff.ms": 100,
            # the default takes 128 MB of heap
            "log.cleaner.dedupe.buffer.size": 4 << 20,
            "log.retention.ms": -1,
            # the defaults make a restart wait until the dead one is forgotten
            "broker.session.timeout.ms": 1000,
            "broker.heartbeat.interval.ms": 200,
            "controlled.shutdown.enable": "false",
        }
        (self._folder / "server.properties").write_text(
            "".join(f"{name}={value}\n" for name, value in config.items())
        )
        # What Kafka's own format tool leaves there, without a second JVM.
        meta = data / "meta.properties"
        if not meta.exists():
            meta.write_text(
                f"version=1\ncluster.id={_kafka_uuid()}\nnode.id=1\n"
                f"directory.id={_kafka_uuid()}\n"
            )

    def _await_ready(self, process: subprocess.Popen[bytes], already: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            text = self._log.read_bytes()[already:]
            if READY in text:
                return
            if process.poll() is not None:
                break
            time.sleep(0.05)
        self.kill()
        raise RuntimeError(
            f"Kafka did not start: {self._log.read_text(errors='replace')[-3000:]}"
        )


def _kafka_uuid() -> str:
    """Kafka reads a leading dash as an option, so none is made."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:22].replace("-", "A")
