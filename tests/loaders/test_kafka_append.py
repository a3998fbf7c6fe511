"""What is appended to Kafka, beside what the client's own ``send`` makes of it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.record.memory_records import MemoryRecordsBuilder

from feedloop.clock import FixedClock
from feedloop.contracts.log import Message
from feedloop.errors import PartlyStored
from loaders import kafka_append, kafka_batches
from loaders.kafka_log import KafkaLog
from tests.loaders.sending import NOW
from tests.support.kafka_broker import KafkaBroker

NONE, LZ4 = 0, 3
SENT = st.tuples(
    st.integers(0, 2**42),
    st.binary(max_size=300),
    st.none() | st.binary(max_size=300),
)


def by_the_client(records: Sequence[kafka_batches.Sent], codec: int) -> bytes:
    builder = MemoryRecordsBuilder(2, codec, 1 << 30)
    for ms, key, value in records:
        builder.append(ms, key, value)
    builder.close()
    return bytes(builder.buffer())


def by_us(records: Sequence[kafka_batches.Sent], codec: int) -> bytes:
    builder = kafka_batches.build(records, codec)
    builder.close()
    return bytes(builder.buffer())


@settings(deadline=None)
@given(st.lists(SENT, min_size=1, max_size=20), st.sampled_from([NONE, LZ4]))
def test_a_batch_is_the_clients_byte_for_byte(
    records: list[kafka_batches.Sent], codec: int
) -> None:
    assert by_us(records, codec) == by_the_client(records, codec)


def test_a_large_batch_is_the_clients_byte_for_byte() -> None:
    records: list[kafka_batches.Sent] = [
        (10**12 - n * 7, b"k" * (n % 200), b"v" * (n % 70_000 if n % 999 == 0 else 9))
        for n in range(20_000)
    ]
    assert by_us(records, NONE) == by_the_client(records, NONE)


@pytest.fixture
def log(kafka: KafkaBroker) -> Iterator[KafkaLog]:
    with closing(KafkaLog(kafka.bootstrap, 3, FixedClock(NOW))) as log:
        yield log


def messages(count: int, size: int = 20) -> list[Message]:
    """Incompressible, with keys that recur."""
    return [Message(f"ü{n % 50}", os.urandom(size), NOW) for n in range(count)]


def records(
    kafka: KafkaBroker, topic: str
) -> list[list[tuple[int, bytes | None, bytes | None]]]:
    """``(timestamp, key, value)`` of every record, by partition."""
    found = []
    with closing(KafkaConsumer(bootstrap_servers=kafka.bootstrap)) as consumer:
        for partition in sorted(consumer.partitions_for_topic(topic) or ()):
            tp = TopicPartition(topic, partition)
            consumer.assign([tp])
            consumer.seek_to_beginning(tp)
            end = consumer.end_offsets([tp])[tp]
            rows = []
            while consumer.position(tp) < end:
                for batch in consumer.poll(500).values():
                    rows += [(r.timestamp, r.key, r.value) for r in batch]
            found.append(rows)
    return found


def test_partitions_order_and_bytes_are_those_of_the_clients_send(
    kafka: KafkaBroker, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_append, "WINDOW_BYTES", 20_000)
    monkeypatch.setattr(kafka_append, "BATCH_BYTES", 3_000)
    sent = [*messages(5000), Message("gone", None, NOW)]
    topics = [f"t{uuid.uuid4().hex}" for _ in range(2)]
    for topic, is_pinned in zip(topics, (True, False), strict=True):
        monkeypatch.setattr(kafka_batches, "IS_PINNED", is_pinned)
        log.create(topic)
        log.append(topic, sent)
    ours, theirs = (records(kafka, topic) for topic in topics)
    assert ours == theirs
    assert sum(map(len, ours)) == 5001
    assert all(ours)


def limit_batches(kafka: KafkaBroker, topic: str, size: int) -> None:
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    with closing(admin):
        admin.alter_configs(
            [
                ConfigResource(
                    ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(size)}
                )
            ]
        )


def test_a_batch_that_the_broker_finds_too_large_is_split(
    kafka: KafkaBroker, log: KafkaLog
) -> None:
    topic = f"t{uuid.uuid4().hex}"
    log.create(topic)
    limit_batches(kafka, topic, 5000)
    sent = messages(100, size=1000)
    log.append(topic, sent)
    stored = [value for rows in records(kafka, topic) for _, _, value in rows]
    assert sorted(filter(None, stored)) == sorted(m.value for m in sent)


def test_what_is_partly_stored_says_which(kafka: KafkaBroker, log: KafkaLog) -> None:
    topic = f"t{uuid.uuid4().hex}"
    log.create(topic)
    limit_batches(kafka, topic, 5000)
    small = messages(20)
    large = Message("ü0", os.urandom(10_000), NOW)
    with pytest.raises(PartlyStored) as caught:
        log.append(topic, [*small[1:], large])
    assert not caught.value.stored[-1]
    stored = {value for rows in records(kafka, topic) for _, _, value in rows}
    told = {
        message.value
        for message, known in zip(small[1:], caught.value.stored[:-1], strict=True)
        if known
    }
    assert told
    assert told <= stored
    # and the next goes through
    log.append(topic, small[:1])
    assert small[0].value in {v for rows in records(kafka, topic) for _, _, v in rows}
