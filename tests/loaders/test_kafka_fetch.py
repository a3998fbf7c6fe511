"""Whole record batches and plain polling: the same records from a real broker."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import kafka
import pytest
from kafka import KafkaAdminClient, KafkaProducer

from feedloop.clock import FixedClock
from feedloop.contracts.log import Record
from feedloop.errors import LogUnavailable
from loaders.kafka_clients import PINNED
from loaders.kafka_log import KafkaLog
from tests.loaders.sending import NOW
from tests.support.kafka_broker import KafkaBroker

NOW_MS = int(NOW.timestamp() * 1000)
PARTITIONS = 2


@pytest.fixture
def topic() -> str:
    return f"t{uuid.uuid4().hex}"


@pytest.fixture(params=["whole batches", "plain poll"])
def either_way(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    if request.param == "plain poll":
        monkeypatch.setattr(kafka, "__version__", "3.0.13")
    yield request.param


def make_topic(broker: KafkaBroker, topic: str, **configs: Any) -> None:
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    new = {"num_partitions": PARTITIONS, "configs": configs}
    admin.create_topics({topic: new}, wait_for_metadata=True)
    admin.close()


def send(broker: KafkaBroker, topic: str, messages: list[Any], **config: Any) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, **config)
    for message in messages:
        producer.send(topic, **message)
    producer.flush()
    producer.close()


def odd_messages(count: int, seed: int = 7) -> list[dict[str, Any]]:
    """Nulls, empty ones, headers, sizes on both sides of each length's bytes."""
    chance = random.Random(seed)
    sizes = [0, 1, 20, 63, 64, 100, 500, 8191, 8192, 20_000]
    messages = []
    for number in range(count):
        size = sizes[number % len(sizes)]
        key = chance.choice([None, b"", b"k", b"\xff\xfe", chance.randbytes(70)])
        headers = [
            (f"h{n}", chance.choice([b"", chance.randbytes(200)]))
            for n in range(chance.choice([0, 0, 1, 3]))
        ]
        is_null = key is not None and number % 7 == 3
        messages.append(
            {
                "key": key,
                "value": None if is_null else chance.randbytes(size),
                "headers": headers,
                "partition": chance.randrange(PARTITIONS),
                # backwards too: deltas may be negative
                "timestamp_ms": NOW_MS + chance.randrange(-(10**9), 10**9),
            }
        )
    return messages


def read_all(
    broker: KafkaBroker, topic: str, limit: int, start: dict[int, int] | None = None
) -> list[Record]:
    records: list[Record] = []
    offsets = start or {}
    with closing(KafkaLog(broker.bootstrap, PARTITIONS, FixedClock(NOW))) as log:
        while batch := log.read(topic, offsets, limit):
            assert len(batch) <= limit
            records += batch.records
            offsets = dict(batch.next_offsets)
        state = log.state(topic)
        assert state is not None
        assert batch.next_offsets == state.end
    return sorted(records, key=lambda record: (record.partition, record.offset))


def plainly(monkeypatch: pytest.MonkeyPatch, read: Callable[[], Any]) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(kafka, "__version__", "another")
        return read()


def assert_the_same(
    broker: KafkaBroker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> list[Record]:
    """Both ways, whole and from the middle; what there is."""
    plain: list[Record] = plainly(monkeypatch, lambda: read_all(broker, topic, 10_000))
    assert kafka.__version__ == PINNED
    assert read_all(broker, topic, 10_000) == plain
    assert read_all(broker, topic, 37) == plain
    for part in (1 / 3, 0.77):
        middle = {
            p: [r.offset for r in plain if r.partition == p]
            for p in {record.partition for record in plain}
        }
        start = {p: found[int(len(found) * part)] for p, found in middle.items()}
        rest = [r for r in plain if r.offset >= start[r.partition]]
        assert read_all(broker, topic, 10_000, start) == rest
        assert rest != plain
    return plain


@pytest.mark.parametrize("codec", [None, "gzip", "lz4", "zstd"])
def test_every_record_as_it_was_sent(
    kafka: KafkaBroker, topic: str, codec: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = odd_messages(400)
    make_topic(kafka, topic)
    config = {"compression_type": codec, "linger_ms": 50, "batch_size": 65_536}
    send(kafka, topic, messages, **config)
    records = assert_the_same(kafka, topic, monkeypatch)
    for partition in range(PARTITIONS):
        sent = [m for m in messages if m["partition"] == partition]
        got = [r for r in records if r.partition == partition]
        assert [r.value for r in got] == [m["value"] for m in sent]
        assert [r.timestamp_ms for r in got] == [m["timestamp_ms"] for m in sent]
        assert [r.key for r in got] == [
            m["key"] if m["key"] is None else m["key"].decode(errors="backslashreplace")
            for m in sent
        ]


def test_the_brokers_own_time(
    kafka: KafkaBroker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_topic(kafka, topic, **{"message.timestamp.type": "LogAppendTime"})
    send(kafka, topic, odd_messages(60), linger_ms=50)
    records = assert_the_same(kafka, topic, monkeypatch)
    now = time.time() * 1000
    assert all(abs(record.timestamp_ms - now) < 600_000 for record in records)
    assert len(records) == 60


def test_a_compacted_topic(
    kafka: KafkaBroker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.001",
        "segment.ms": "200",
        "max.compaction.lag.ms": "200",
    }
    make_topic(kafka, topic, **configs)
    values = [
        {"key": b"k%d" % (n % 5), "value": b"%d" % n, "partition": n % 2}
        for n in range(60)
    ]
    pause = threading.Event()
    deadline = time.monotonic() + 90
    while True:
        # a segment is cleaned only when there is a newer one
        send(kafka, topic, values, linger_ms=50)
        offsets = [record.offset for record in read_all(kafka, topic, 10_000)]
        if len(offsets) < max(offsets):
            break
        assert time.monotonic() < deadline, "the broker never compacted"
        pause.wait(0.3)
    assert_the_same(kafka, topic, monkeypatch)


def test_aborted_transactions(
    kafka: KafkaBroker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_topic(kafka, topic)
    producers = [
        KafkaProducer(
            bootstrap_servers=kafka.bootstrap, transactional_id=f"{topic}-{n}"
        )
        for n in range(2)
    ]
    for producer in producers:
        producer.init_transactions()
    kept = []
    for number in range(12):
        # two transactions at once in the same partitions, one may be aborted
        for n, producer in enumerate(producers):
            producer.begin_transaction()
            for partition in range(PARTITIONS):
                value = b"%d-%d" % (number, n)
                producer.send(topic, key=b"k", value=value, partition=partition)
            producer.flush()
        for n, producer in enumerate(producers):
            if (number + n) % 3 == 0:
                producer.abort_transaction()
            else:
                producer.commit_transaction()
                kept += [b"%d-%d" % (number, n)] * PARTITIONS
    for producer in producers:
        producer.close()
    records = assert_the_same(kafka, topic, monkeypatch)
    assert sorted(record.value or b"" for record in records) == sorted(kept)


def test_records_may_come_while_it_is_read(
    kafka: KafkaBroker, topic: str, either_way: str
) -> None:
    make_topic(kafka, topic)
    log = KafkaLog(kafka.bootstrap, PARTITIONS, FixedClock(NOW))
    seen: list[Record] = []
    offsets: dict[int, int] = {}
    for number in range(6):
        values = [{"value": b"%d-%d" % (number, n)} for n in range(50)]
        send(kafka, topic, values, linger_ms=20)
        # less than there is, so that something fetched is always left over
        batch = log.read(topic, offsets, 40)
        seen += batch.records
        offsets = dict(batch.next_offsets)
    while batch := log.read(topic, offsets, 40):
        seen += batch.records
        offsets = dict(batch.next_offsets)
    log.close()
    sent = sorted(b"%d-%d" % (n, m) for n in range(6) for m in range(50))
    assert sorted(record.value or b"" for record in seen) == sent


def test_a_damaged_record_batch_is_refused_each_time(
    tmp_path: Path, topic: str, either_way: str
) -> None:
    with KafkaBroker(tmp_path) as broker:
        make_topic(broker, topic)
        values = [{"value": b"%d" % n * 50, "partition": 0} for n in range(20)]
        send(broker, topic, values[:10], linger_ms=50)
        send(broker, topic, values[10:], linger_ms=50)
        (segment,) = (tmp_path / "data" / f"{topic}-0").glob("*.log")
        damaged = bytearray(segment.read_bytes())
        damaged[-20] ^= 1
        segment.write_bytes(damaged)
        log = KafkaLog(broker.bootstrap, PARTITIONS, FixedClock(NOW))
        good = log.read(topic, {}, 10)
        assert [record.value for record in good.records] == [
            value["value"] for value in values[:10]
        ]
        for _ in range(3):
            with pytest.raises(LogUnavailable, match="CorruptRecordError"):
                log.read(topic, good.next_offsets, 100)
        log.close()
