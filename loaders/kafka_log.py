"""The event log on Apache Kafka.

The client's defaults lose data silently; what is set here and why was measured
against a real broker.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import (
    KafkaError,
    OffsetOutOfRangeError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)

from feedloop.clock import Clock
from feedloop.contracts.log import Batch, Message, TopicState
from feedloop.errors import LogUnavailable, OffsetsLost
from loaders.instants import EPOCH
from loaders.kafka_append import KafkaAppender
from loaders.kafka_clients import CONNECTION, connect
from loaders.kafka_reader import KafkaReader, bounds

UNKNOWN_TOPIC = 3

CONSUMER = CONNECTION | {
    "group_id": None,
    "enable_auto_commit": False,  # offsets belong to the table's commits
    "auto_offset_reset": "none",  # any other value skips what was lost, silently
    "isolation_level": "read_committed",
    "check_crcs": True,
    # a batch never waits for what is not there yet
    "fetch_max_wait_ms": 20,
    "metrics_enabled": False,
}


class KafkaLog:
    """``EventLog`` on the brokers of ``bootstrap``. Safe to share by threads."""

    def __init__(self, bootstrap: str, partitions: int, clock: Clock) -> None:
        self._bootstrap = bootstrap.split(",")
        self._partitions = partitions
        self._appender = KafkaAppender(self._bootstrap, clock)
        self._clients: dict[type, Any] = {}
        # Kafka's consumer and admin client serve one thread at a time.
        self._lock = threading.RLock()
        self._reader: KafkaReader | None = None

    def create(self, topic: str, *, compacted: bool = False) -> None:
        policy = "compact" if compacted else "delete"
        new = {
            "num_partitions": self._partitions,
            "configs": {"cleanup.policy": policy},
        }
        with self._lock, self._errors_of(topic):
            if self._describe(topic) is not None:
                return
            try:
                self._admin.create_topics({topic: new}, wait_for_metadata=True)
            except TopicAlreadyExistsError:
                return  # another process was first

    def append(self, topic: str, messages: Sequence[Message]) -> None:
        """What it raises for may still be stored, or be so a little later: a
        broker can have it without having said so."""
        with self._errors_of(topic):
            self._appender.append(topic, messages)

    def state(self, topic: str) -> TopicState | None:
        with self._lock, self._errors_of(topic):
            found = self._describe(topic)
            if found is None:
                return None
            partitions = _partitions_of(topic, found)
            beginning, end = bounds(self._consumer, partitions)
            return TopicState(
                topic_id=str(found["topic_id"]),
                beginning={tp.partition: at for tp, at in beginning.items()},
                end={tp.partition: at for tp, at in end.items()},
            )

    def read(
        self,
        topic: str,
        offsets: Mapping[int, int],
        limit: int,
        only: Collection[int] | None = None,
    ) -> Batch:
        with self._lock, self._errors_of(topic):
            found = self._describe(topic)
            if found is None:
                raise UnknownTopicOrPartitionError(topic)
            partitions = [
                tp
                for tp in _partitions_of(topic, found)
                if only is None or tp.partition in only
            ]
            consumer = self._consumer
            if self._reader is None:
                self._reader = KafkaReader(consumer)
            try:
                return self._reader.read(partitions, offsets, limit)
            except KafkaError:
                # what it has fetched may be broken: the next read starts anew
                self._reader = None
                del self._clients[KafkaConsumer]
                consumer.close(autocommit=False)
                raise

    def offsets_at(self, topic: str, at: datetime) -> Mapping[int, int]:
        ms = math.ceil((at - EPOCH) / timedelta(milliseconds=1))
        with self._lock, self._errors_of(topic):
            found = self._describe(topic)
            if found is None:
                raise UnknownTopicOrPartitionError(topic)
            partitions = _partitions_of(topic, found)
            _, ends = bounds(self._consumer, partitions)
            later = self._consumer.offsets_for_times(dict.fromkeys(partitions, ms))
            return {
                tp.partition: later[tp].offset if later.get(tp) else ends[tp]
                for tp in partitions
            }

    def waiting(self, topic: str, offsets: Mapping[int, int]) -> Mapping[int, int]:
        state = self.state(topic)
        if state is None:
            return {}
        return {
            p: max(0, end - offsets.get(p, state.beginning[p]))
            for p, end in state.end.items()
        }

    def close(self) -> None:
        self._appender.close()
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()
            self._reader = None

    def _describe(self, topic: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] = self._admin.describe_topics([topic])[0]
        return None if found["error_code"] == UNKNOWN_TOPIC else found

    @property
    def _admin(self) -> Any:
        return self._client(KafkaAdminClient, CONNECTION)

    @property
    def _consumer(self) -> Any:
        return self._client(KafkaConsumer, CONSUMER)

    def _client(self, kind: type, config: Mapping[str, Any]) -> Any:
        """Made on first use, so that a log can be opened while Kafka is away."""
        with self._lock:
            if kind not in self._clients:
                self._clients[kind] = connect(kind, self._bootstrap, config)
            return self._clients[kind]

    @contextmanager
    def _errors_of(self, topic: str) -> Iterator[None]:
        servers = ",".join(self._bootstrap)
        try:
            yield
        except OffsetOutOfRangeError as error:
            raise OffsetsLost(
                f"Kafka no longer has the offsets of {topic} to read on from "
                f"({error}); run `feedloop load` again, which says what is missing "
                "and how to go on without it."
            ) from error
        except UnknownTopicOrPartitionError as error:
            raise LogUnavailable(
                f"Kafka at {servers} has no topic {topic}; `feedloop collect` and "
                "`feedloop import` create it."
            ) from error
        except KafkaError as error:
            raise LogUnavailable(
                f"Kafka at {servers} does not answer for {topic} "
                f"({type(error).__name__}: {error}); try again, or set "
                "FEEDLOOP_KAFKA_BOOTSTRAP."
            ) from error


def _partitions_of(topic: str, found: Mapping[str, Any]) -> list[TopicPartition]:
    indexes = sorted(entry["partition_index"] for entry in found["partitions"])
    return [TopicPartition(topic, index) for index in indexes]
