"""What every event log does, whatever it is made of; then what each adds."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import shutil
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from feedloop.clock import FixedClock
from feedloop.contracts.log import EventLog, Message, Record
from feedloop.errors import LogUnavailable, OffsetsLost
from feedloop.settings import Settings, from_environment
from loaders.file_log import FileLog
from loaders.kafka_log import KafkaLog
from loaders.log import create_topics, open_log
from tests.loaders.sending import NOW
from tests.support.kafka_broker import KafkaBroker

T = TypeVar("T")
NOW_MS = int(NOW.timestamp() * 1000)


@dataclass
class Case:
    """A log, a topic of this test alone, and how to make and drop it."""

    make: Callable[[], EventLog]
    drop: Callable[[], object]
    log: EventLog
    topic: str


@pytest.fixture(params=["file", "kafka"])
def case(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FixedClock
) -> Iterator[Case]:
    topic = f"t{uuid.uuid4().hex}.events"
    if request.param == "file":
        make: Callable[[], EventLog] = partial(FileLog, tmp_path, 2, clock)
        drop = partial(shutil.rmtree, tmp_path / topic)
    else:
        bootstrap = request.getfixturevalue("kafka").bootstrap
        make = partial(KafkaLog, bootstrap, 2, clock)
        drop = partial(delete_topic, bootstrap, topic)
    log = make()
    yield Case(make, drop, log, topic)
    log.close()


def delete_topic(bootstrap: str, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.delete_topics([topic])
    admin.close()


def read_all(log: EventLog, topic: str, limit: int = 1000) -> list[Record]:
    """Everything in the topic, ``limit`` records at a time."""
    records: list[Record] = []
    offsets: dict[int, int] = {}
    while True:
        batch = log.read(topic, offsets, limit)
        assert len(batch.records) <= limit
        if not batch.records:
            state = log.state(topic)
            assert state is not None
            assert batch.next_offsets == state.end
            return records
        records += batch.records
        offsets = dict(batch.next_offsets)


def numbered(count: int, keys: int = 5) -> list[Message]:
    return [
        Message(f"user-{n % keys}", b'{"n":%d}' % n, NOW + timedelta(seconds=n))
        for n in range(count)
    ]


def values_by_key(records: list[Record]) -> dict[str | None, list[bytes | None]]:
    found = defaultdict(list)
    for record in records:
        found[record.key].append(record.value)
    return dict(found)


def test_a_topic_that_is_not_there(case: Case) -> None:
    assert case.log.state(case.topic) is None
    with pytest.raises(LogUnavailable, match=r"no topic t\w+\.events"):
        case.log.read(case.topic, {}, 10)


def test_creating_twice_keeps_the_topic(case: Case) -> None:
    case.log.create(case.topic)
    first = case.log.state(case.topic)
    case.log.append(case.topic, numbered(3))
    case.log.create(case.topic)
    second = case.log.state(case.topic)
    assert first is not None and second is not None
    assert second.topic_id == first.topic_id
    assert first.beginning == first.end == {0: 0, 1: 0}
    assert second.beginning == {0: 0, 1: 0}
    assert second.end != first.end


def test_a_topic_made_anew_has_another_id(case: Case) -> None:
    case.log.create(case.topic)
    first = case.log.state(case.topic)
    case.drop()
    case.log.create(case.topic)
    second = case.log.state(case.topic)
    assert first is not None and second is not None
    assert second.topic_id != first.topic_id
    assert second.end == {0: 0, 1: 0}


def test_what_was_appended_is_read(case: Case) -> None:
    messages = numbered(40)
    case.log.create(case.topic)
    case.log.append(case.topic, messages[:25])
    case.log.append(case.topic, messages[25:])
    other = case.make()
    records = read_all(other, case.topic)
    other.close()

    expected = defaultdict(list)
    for message in messages:
        expected[message.key].append(message.value)
    assert values_by_key(records) == expected  # in order within a key
    by_value = {record.value: record for record in records}
    for n, message in enumerate(messages):
        assert by_value[message.value].timestamp_ms == NOW_MS + n * 1000
    assert {record.partition for record in records} == {0, 1}
    for key in expected:
        assert len({r.partition for r in records if r.key == key}) == 1
    for partition in (0, 1):
        offsets = [r.offset for r in records if r.partition == partition]
        assert offsets == sorted(set(offsets))


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_reading_in_small_batches_is_the_same(case: Case, limit: int) -> None:
    case.log.create(case.topic)
    case.log.append(case.topic, numbered(20))
    whole = sorted(read_all(case.log, case.topic))
    assert sorted(read_all(case.log, case.topic, limit)) == whole
    assert len(whole) == 20


def test_reading_again_from_the_middle(case: Case) -> None:
    case.log.create(case.topic)
    case.log.append(case.topic, numbered(20))
    first = case.log.read(case.topic, {}, 6)
    rest = case.log.read(case.topic, first.next_offsets, 100)
    again = case.log.read(case.topic, first.next_offsets, 100)
    assert sorted(rest.records) == sorted(again.records)
    assert rest.next_offsets == again.next_offsets
    assert len(first.records) + len(rest.records) == 20


def test_an_empty_append_and_an_empty_read(case: Case) -> None:
    case.log.create(case.topic)
    case.log.append(case.topic, [])
    batch = case.log.read(case.topic, {}, 10)
    assert batch.records == []
    assert batch.next_offsets == {0: 0, 1: 0}


def test_any_bytes_come_back_as_they_were(case: Case) -> None:
    values = [
        b'{"a": 1.50}',
        b"not json",
        b"",
        b'{"a":\n1}',
        b'  {"spaces": "around"} ',
        b"null",
        b'{"torn": "\xff\xfe',
        b"[" * 5000,
        None,
    ]
    case.log.create(case.topic)
    case.log.append(case.topic, [Message("one", value, NOW) for value in values])
    assert [r.value for r in read_all(case.log, case.topic)] == values


def test_a_message_without_a_time_gets_the_clocks(
    case: Case, clock: FixedClock
) -> None:
    clock.at = NOW + timedelta(hours=3)
    case.log.create(case.topic)
    case.log.append(case.topic, [Message("a", b"{}"), Message("a", b"{}", NOW)])
    stamps = [record.timestamp_ms for record in read_all(case.log, case.topic)]
    assert stamps == [NOW_MS + 3 * 3600 * 1000, NOW_MS]


def test_no_time_before_1970(case: Case) -> None:
    case.log.create(case.topic)
    with pytest.raises(ValueError, match="before 1970"):
        case.log.append(case.topic, [Message("a", b"{}", NOW.replace(year=1960))])
    assert read_all(case.log, case.topic) == []


def test_offsets_that_the_log_does_not_have(case: Case) -> None:
    case.log.create(case.topic)
    case.log.append(case.topic, numbered(10))
    with pytest.raises(OffsetsLost, match="`feedloop load"):
        case.log.read(case.topic, {0: 10_000_000}, 10)


def append_many(make: Callable[[], EventLog], topic: str, name: str) -> None:
    log = make()
    for n in range(30):
        values = (b'{"by":"%s","n":%d}' % (name.encode(), n * 4 + i) for i in range(4))
        log.append(topic, [Message(name, value, NOW) for value in values])
    log.close()


def test_processes_append_at_once(case: Case) -> None:
    case.log.create(case.topic)
    context = multiprocessing.get_context("spawn")
    names = ["a", "b"]
    writers = [
        context.Process(target=append_many, args=(case.make, case.topic, name))
        for name in names
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert values_by_key(read_all(case.log, case.topic)) == {
        name: [b'{"by":"%s","n":%d}' % (name.encode(), n) for n in range(120)]
        for name in names
    }


def test_the_settings_choose_the_log(
    settings: Settings, kafka: KafkaBroker, clock: FixedClock
) -> None:
    namespace = f"t{uuid.uuid4().hex[:20]}"
    on_kafka = from_environment(
        {}, namespace=namespace, log="kafka", kafka_bootstrap=kafka.bootstrap
    )
    for chosen in (settings, on_kafka):
        log = open_log(chosen, clock)
        create_topics(log, chosen)
        for stream in ("events", "items", "users"):
            state = log.state(chosen.topic(stream))
            assert state is not None and set(state.end) == {0, 1}
        log.close()


# --- files -------------------------------------------------------------------


@pytest.fixture
def file_log(tmp_path: Path, clock: FixedClock) -> FileLog:
    log = FileLog(tmp_path, 1, clock)
    log.create("x")
    return log


def test_a_torn_line_is_closed_by_the_next_writer(
    file_log: FileLog, tmp_path: Path
) -> None:
    file_log.append("x", [Message("a", b'{"n":1}', NOW)])
    path = tmp_path / "x" / "0.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"ts":17723664')

    state = file_log.state("x")
    assert state is not None and state.end == {0: len(whole)}
    assert len(file_log.read("x", {}, 10).records) == 1  # never a torn line

    file_log.append("x", [Message("a", b'{"n":2}', NOW + timedelta(seconds=1))])
    torn = Record(0, len(whole), NOW_MS, None, b'{"ts":17723664')
    records = file_log.read("x", {}, 10).records
    assert [r.value for r in records] == [b'{"n":1}', torn.value, b'{"n":2}']
    assert records[1] == torn


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"rubbish",
        b"\xff\xfe\x00",
        b"[1, 2]",
        b'{"key":"a","value":{}}',
        b'{"ts":"yesterday","key":"a","value":{}}',
        b'{"ts":-5,"key":"a","value":{}}',
        b'{"ts":999999999999999999,"key":"a","value":{}}',
        b'{"ts":1,"key":7,"value":{}}',
        b'{"ts":1,"key":"a","value":{}',
        b'{"ts":1,"key":"a","value":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_a_line_that_is_no_envelope_is_a_record_of_its_bytes(
    file_log: FileLog, tmp_path: Path, line: bytes
) -> None:
    path = tmp_path / "x" / "0.jsonl"
    path.write_bytes(line + b"\n")
    at_start = file_log.read("x", {}, 10)
    assert at_start.records == [Record(0, 0, 0, None, line)]

    path.unlink()
    file_log.append("x", [Message("a", b"{}", NOW)])
    before = path.stat().st_size
    with path.open("ab") as file:
        file.write((line + b"\n") * 2)
    expected = Record(0, before, NOW_MS, None, line)
    assert file_log.read("x", {}, 10).records[1] == expected
    # the time does not depend on where a batch begins
    second = before + len(line) + 1
    for start in (before, second):
        for record in file_log.read("x", {0: start}, 10).records:
            assert record.timestamp_ms == NOW_MS


def test_the_time_before_a_torn_line_is_found_across_blocks(
    file_log: FileLog, tmp_path: Path
) -> None:
    file_log.append("x", [Message("a", b"{}", NOW)])
    path = tmp_path / "x" / "0.jsonl"
    start = path.stat().st_size + 2_500_001
    with path.open("ab") as file:
        file.write(b"x" * 2_500_000 + b"\n" + b"torn\n")
    records = file_log.read("x", {0: start}, 10).records
    assert records == [Record(0, start, NOW_MS, None, b"torn")]


def test_offsets_inside_a_line_are_refused(file_log: FileLog) -> None:
    file_log.append("x", [Message("a", b"{}", NOW)])
    with pytest.raises(OffsetsLost, match="no record at 3"):
        file_log.read("x", {0: 3}, 10)


def test_no_partition_starves_the_other(tmp_path: Path, clock: FixedClock) -> None:
    log = FileLog(tmp_path, 2, clock)
    log.create("x")
    log.append("x", numbered(200))
    batch = log.read("x", {}, 50)
    counts = [sum(r.partition == p for r in batch.records) for p in (0, 1)]
    assert counts == [25, 25]


def test_no_space_stores_nothing(
    tmp_path: Path, clock: FixedClock, file_log: FileLog
) -> None:
    file_log.append("x", [Message("a", b'"%d"' % n, NOW) for n in range(3)])
    path = tmp_path / "x" / "0.jsonl"
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 1000, hard))
    try:
        with pytest.raises(LogUnavailable, match="nothing was stored; free space"):
            file_log.append("x", [Message("a", b'"%d"' % n, NOW) for n in range(100)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    file_log.append("x", [Message("a", b'"3"', NOW)])
    assert [r.value for r in file_log.read("x", {}, 10).records] == [
        b'"0"',
        b'"1"',
        b'"2"',
        b'"3"',
    ]


def test_a_folder_that_cannot_be_written(tmp_path: Path, clock: FixedClock) -> None:
    blocked = tmp_path / "log"
    blocked.write_text("a file where a folder should be")
    with pytest.raises(LogUnavailable, match=os.strerror(errno.ENOTDIR)):
        FileLog(blocked, 1, clock).create("x")


def test_an_unreadable_topic_file(file_log: FileLog, tmp_path: Path) -> None:
    (tmp_path / "x" / "topic.json").write_text("{")
    with pytest.raises(LogUnavailable, match="restore it"):
        file_log.state("x")


# --- Kafka -------------------------------------------------------------------


def once_back(call: Callable[[], T]) -> T:
    """What ``call`` gives once the clients have found the broker again, which
    they look for every half second."""
    deadline = time.monotonic() + 30
    pause = threading.Event()
    while True:
        try:
            return call()
        except LogUnavailable:
            if time.monotonic() > deadline:
                raise
            pause.wait(0.05)


def test_kafka_away_and_back_again(tmp_path: Path, clock: FixedClock) -> None:
    with KafkaBroker(tmp_path) as broker:
        log = KafkaLog(broker.bootstrap, 2, clock)
        log.create("x")
        log.append("x", numbered(10))
        broker.kill()
        with pytest.raises(LogUnavailable, match="try again"):
            log.append("x", [Message("a", b"lost or late", NOW)])
        with pytest.raises(LogUnavailable):
            log.state("x")
        threads = threading.active_count()
        with pytest.raises(LogUnavailable):
            KafkaLog(broker.bootstrap, 2, clock).state("x")
        assert threading.active_count() == threads  # nothing keeps trying
        broker.start()
        once_back(lambda: log.append("x", [Message("a", b"after", NOW)]))
        values = [record.value for record in once_back(lambda: read_all(log, "x"))]
        assert b"after" in values  # a send that was given up may still arrive
        assert {m.value for m in numbered(10)} <= set(values)
        log.close()


def test_aborted_transactions_are_not_read(
    kafka: KafkaBroker, clock: FixedClock
) -> None:
    topic = f"t{uuid.uuid4().hex}"
    log = KafkaLog(kafka.bootstrap, 1, clock)
    log.create(topic)
    producer = KafkaProducer(
        bootstrap_servers=kafka.bootstrap, transactional_id=topic, acks="all"
    )
    producer.init_transactions()
    for text, commit in ((b"kept", True), (b"taken back", False)):
        producer.begin_transaction()
        producer.send(topic, key=b"a", value=text)
        producer.flush()
        if commit:
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    producer.close()
    assert [record.value for record in read_all(log, topic)] == [b"kept"]
    batch = log.read(topic, {}, 1)
    assert len(batch.records) == 1
    # two records and two markers: the end is passed although nothing shows it
    assert log.read(topic, batch.next_offsets, 10).next_offsets == {0: 4}
    log.close()
