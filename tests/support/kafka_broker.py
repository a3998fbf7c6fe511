"""A real Apache Kafka in KRaft mode, of one node or of several, for tests.

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
from typing import NamedTuple

from tests.support.jvm import fetch_jars, java
from tests.support.tcp_proxy import TcpProxy

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


class Cluster(NamedTuple):
    """What the nodes of a cluster know of one another."""

    id: str
    controllers: tuple[int, ...]
    """The controllers' ports; node ``n`` (from 1) has the ``n``-th."""


class KafkaBroker:
    """Broker and controller in one process, below ``folder``.

    ``advertised`` is a port by which clients that come through a proxy are to
    come back; the proxy leads to ``behind_proxy``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        node: int = 1,
        cluster: Cluster | None = None,
        advertised: int | None = None,
    ) -> None:
        self._folder = folder
        self._node = node
        self._cluster = cluster or Cluster(_kafka_uuid(), (*free_ports(1),))
        self._advertised = advertised
        self._port, self.behind_proxy = free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None
        self._already = 0
        self._log = folder / "broker.log"

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("The broker was never started.")
        return self._process.pid

    def start(self) -> KafkaBroker:
        """Returns once clients are served."""
        self.spawn()
        self.await_ready()
        return self

    def spawn(self) -> None:
        self._write_config()
        classpath = os.pathsep.join(map(str, fetch_jars(*COORDINATES)))
        config = str(self._folder / "server.properties")
        with self._log.open("ab") as log:
            self._already = log.tell()
            self._process = subprocess.Popen(
                [java(), *JVM_OPTIONS, "-cp", classpath, "kafka.Kafka", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in pytest must not reach it
            )

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
        nodes = len(self._cluster.controllers)
        controllers = [f"127.0.0.1:{port}" for port in self._cluster.controllers]
        listeners = {
            "DIRECT": (self._port, self._port),
            "PROXIED": (self.behind_proxy, self._advertised or self.behind_proxy),
        }
        config = {
            "process.roles": "broker,controller",
            "node.id": self._node,
            "controller.quorum.voters": ",".join(
                f"{node}@{address}" for node, address in enumerate(controllers, 1)
            ),
            "listeners": ",".join(
                [
                    *(f"{k}://127.0.0.1:{port}" for k, (port, _) in listeners.items()),
                    f"CONTROLLER://{controllers[self._node - 1]}",
                ]
            ),
            "advertised.listeners": ",".join(
                f"{k}://127.0.0.1:{port}" for k, (_, port) in listeners.items()
            ),
            "inter.broker.listener.name": "DIRECT",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": (
                "DIRECT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT"
            ),
            "default.replication.factor": nodes,
            "min.insync.replicas": min(2, nodes),
            "log.dirs": data,
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": nodes,
            "transaction.state.log.num.partitions": 1,
            "transaction.state.log.replication.factor": nodes,
            "transaction.state.log.min.isr": min(2, nodes),
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
                f"version=1\ncluster.id={self._cluster.id}\nnode.id={self._node}\n"
                f"directory.id={_kafka_uuid()}\n"
            )

    def await_ready(self) -> None:
        """Return once clients are served."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            text = self._log.read_bytes()[self._already :]
            if READY in text:
                return
            if self._process is None or self._process.poll() is not None:
                break
            time.sleep(0.05)
        self.kill()
        raise RuntimeError(
            f"Kafka did not start: {self._log.read_text(errors='replace')[-3000:]}"
        )


class KafkaCluster:
    """``nodes`` brokers, each with a proxy of its own before it.

    Topics have a replica on each, and an append is acknowledged once two of
    them have it (one, where there is just one).
    """

    def __init__(self, folder: Path, nodes: int) -> None:
        cluster = Cluster(_kafka_uuid(), tuple(free_ports(nodes)))
        ports = free_ports(nodes)
        self.brokers = [
            KafkaBroker(
                folder / f"node{node}", node=node, cluster=cluster, advertised=port
            )
            for node, port in enumerate(ports, 1)
        ]
        self.proxies = [
            TcpProxy(port, broker.behind_proxy)
            for port, broker in zip(ports, self.brokers, strict=True)
        ]

    @property
    def bootstrap(self) -> str:
        return ",".join(broker.bootstrap for broker in self.brokers)

    @property
    def through_proxies(self) -> str:
        return ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.proxies)

    def __enter__(self) -> KafkaCluster:
        with ExitStack() as stack:
            for broker in self.brokers:
                stack.callback(broker.kill)
                broker.spawn()
            for broker in self.brokers:
                broker.await_ready()
            for proxy in self.proxies:
                stack.enter_context(proxy)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _kafka_uuid() -> str:
    """Kafka reads a leading dash as an option, so none is made."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:22].replace("-", "A")
