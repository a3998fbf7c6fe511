"""The event log that the settings name."""

from __future__ import annotations

from feedloop.clock import Clock
from feedloop.contracts.log import EVENTS, STREAMS, EventLog
from feedloop.settings import Settings
from loaders.file_log import FileLog


def open_log(settings: Settings, clock: Clock) -> EventLog:
    """The log; it connects when it is first used."""
    if settings.log == "kafka":
        from loaders.kafka_log import KafkaLog  # a tenth of a start without Kafka

        return KafkaLog(settings.kafka_bootstrap, settings.log_partitions, clock)
    return FileLog(settings.log_dir, settings.log_partitions, clock)


def create_topics(log: EventLog, settings: Settings) -> None:
    """Create the topic of every stream that has none yet.

    Of an item or user only the newest version matters to a reader that starts
    anew, so that those topics may be compacted; events are never replaced.
    """
    for stream in STREAMS:
        log.create(settings.topic(stream), compacted=stream != EVENTS)
