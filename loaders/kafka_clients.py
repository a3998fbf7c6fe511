"""Kafka clients that answer soon and leave nothing behind.

The client's defaults wait for minutes; what is set here and why was measured
against a real broker.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from kafka.errors import KafkaConnectionError
from kafka.net.compat import KafkaNetClient

# What fails is raised by who called; the client would tell every retry on stderr.
logging.getLogger("kafka").addHandler(logging.NullHandler())

PINNED = "3.0.12"
"""The version of kafka-python whose private API is used where it is fast."""

REACH_S = 1.0

# Whoever sends must hear of an absent broker within two seconds.
CONNECTION = {
    "bootstrap_timeout_ms": 1500,
    "request_timeout_ms": 1000,
    # the default grows to 30 s, and a broker that is back would stay unseen
    "reconnect_backoff_max_ms": 500,
}


def connect(kind: type, bootstrap: Sequence[str], config: Mapping[str, Any]) -> Any:
    """A client of ``kind`` that has reached a broker. Raises ``KafkaError``."""
    _reach(bootstrap)
    made: list[KafkaNetClient] = []

    def net_client(**configs: Any) -> KafkaNetClient:
        made.append(KafkaNetClient(**configs))
        return made[-1]

    try:
        return kind(
            bootstrap_servers=list(bootstrap), kafka_client=net_client, **config
        )
    except BaseException:
        # Its thread would try for ever to connect.
        for client in made:
            client.close()
        raise


def _reach(bootstrap: Sequence[str]) -> None:
    """Raise ``KafkaConnectionError`` where no broker takes a connection.

    A client tries until its time is up; that nothing listens is known at once.
    """
    reason = "no bootstrap server"
    for server in bootstrap:
        host, _, port = server.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
            return
        except (OSError, ValueError) as error:
            reason = str(error)
    raise KafkaConnectionError(reason)
