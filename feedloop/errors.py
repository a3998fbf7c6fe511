"""Every error Feedloop raises on purpose.

FeedloopError                 one sentence that says what happened and what to do
├── SettingsError             an environment variable holds an unusable value
├── ContractError             data breaks a contract
│   ├── InvalidEvent          one event; names the field
│   ├── InvalidRecord         one catalogue record; names the field
│   └── SeedError             a seed file is missing or breaks its contract
├── LogError                  the event log
│   ├── LogUnavailable        it can't be written or read now; try again
│   │   └── PartlyStored      some of the messages are stored; says which
│   ├── OffsetsLost           committed offsets are no longer in the log
│   └── TopicRecreated        the topic is not the one the table was loaded from
├── LossNotAccepted           nobody said that records may be skipped
├── TablesUnavailable         they can't be read or written now; try again
├── ReaderLost                a process that reads for the loader has ended; again
├── Fenced                    another loader committed first; nothing was written
├── OffsetHistoryExpired      the snapshot that held the offsets was expired
├── ReplayRefused             a window of the log can't go into that table
├── MaintenanceFailed         tables can't be maintained; they are as they were
├── ImportFailed              a dataset file can't be read; names file, row, column
├── WarehouseEmpty            a step needs data or models that are not there yet
├── StoreError                the online store
│   ├── StoreUnavailable      it can't be reached now; try again
│   └── ForeignNamespace      it holds another namespace's keys
├── BuildInvalid              a build folder is missing, torn or of another format
├── PortInUse                 the address is taken
└── StepFailed                a step of a larger command failed; names it
"""

from __future__ import annotations

from collections.abc import Sequence


class FeedloopError(Exception):
    """Base of all errors that a person is meant to read."""


class SettingsError(FeedloopError):
    pass


class ContractError(FeedloopError):
    pass


class InvalidRecord(ContractError):
    """A message breaks its contract.

    ``field`` is the offending field's name ("" when the message as a whole is
    unreadable) and ``reason`` a phrase a person can act on.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class InvalidEvent(InvalidRecord):
    pass


class SeedError(ContractError):
    pass


class LogError(FeedloopError):
    pass


class LogUnavailable(LogError):
    pass


class PartlyStored(LogUnavailable):
    """``stored`` says of each message whether the log is known to have it."""

    def __init__(self, message: str, stored: Sequence[bool]) -> None:
        super().__init__(message)
        self.stored = stored


class OffsetsLost(LogError):
    pass


class TopicRecreated(LogError):
    pass


class LossNotAccepted(FeedloopError):
    pass


class TablesUnavailable(FeedloopError):
    pass


class ReaderLost(FeedloopError):
    pass


class Fenced(FeedloopError):
    pass


class OffsetHistoryExpired(FeedloopError):
    pass


class ReplayRefused(FeedloopError):
    pass


class MaintenanceFailed(FeedloopError):
    pass


class ImportFailed(FeedloopError):
    pass


class WarehouseEmpty(FeedloopError):
    pass


class StoreError(FeedloopError):
    pass


class StoreUnavailable(StoreError):
    pass


class ForeignNamespace(StoreError):
    pass


class BuildInvalid(FeedloopError):
    pass


class PortInUse(FeedloopError):
    pass


class StepFailed(FeedloopError):
    pass
