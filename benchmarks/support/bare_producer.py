"""The Kafka client's own producer, and nothing else: events a CPU-second.

``python -m benchmarks.support.bare_producer BOOTSTRAP PARTITIONS FILE EVENTS``
sends the events of a file of JSON lines over and over.
"""

from __future__ import annotations

import sys
import time
from itertools import cycle, islice
from pathlib import Path

import msgspec
from kafka import KafkaAdminClient, KafkaProducer

TOPIC = "bare"
# The fastest of those tried that keep the collector's promises.
SETTINGS = {
    "acks": "all",
    "enable_idempotence": True,
    "compression_type": "lz4",
    "linger_ms": 50,
    "batch_size": 256 * 1024,
    "metrics_enabled": False,
}


def main(bootstrap: str, partitions: str, file: str, events: str) -> None:
    lines = Path(file).read_bytes().splitlines()
    keys = [msgspec.json.decode(line)["user_id"].encode() for line in lines]
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    topics = admin.describe_topics([TOPIC])
    if topics[0]["error_code"]:
        new = {TOPIC: {"num_partitions": int(partitions)}}
        admin.create_topics(new, wait_for_metadata=True)
    admin.close()
    producer = KafkaProducer(bootstrap_servers=bootstrap, **SETTINGS)
    producer.send(TOPIC, lines[0], keys[0]).get(30)
    begun = time.process_time()
    sent = [
        producer.send(TOPIC, value, key)
        for key, value in islice(cycle(zip(keys, lines, strict=True)), int(events))
    ]
    producer.flush()
    spent = time.process_time() - begun
    failed = sum(not future.succeeded() for future in sent)
    producer.close()
    if failed:
        raise SystemExit(f"{failed} events were not acknowledged")
    sys.stdout.write(str(len(sent) / spent))


if __name__ == "__main__":
    main(*sys.argv[1:])
