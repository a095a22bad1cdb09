"""What the checker sees: records of the topics, and what each of them says."""

from collections.abc import Sequence
from typing import NamedTuple

Header = tuple[str, bytes | None]


class SeenRecord(NamedTuple):
    """One record as a read_committed reader got it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]
    received_ms: int


class JobSeen(NamedTuple):
    """An ingress record that schedules a job."""

    source: str
    """`partition-offset` of the record, by which every later record names the job."""
    place: tuple[int, int]
    tenant: str
    job_id: str
    due_ms: int
    expires_ms: int
    """The last moment at which it may be dispatched; 0 is never."""
    arrived_ms: int
    """The record's timestamp."""
    payload_crc: int | None
    """CRC-32 of the payload, where the record carries it as bytes of its own."""

    @property
    def ready_ms(self) -> int:
        """From when on it may be dispatched."""
        return max(self.due_ms, self.arrived_ms)


class CancelSeen(NamedTuple):
    """An ingress record that cancels a job."""

    place: tuple[int, int]
    tenant: str
    job_id: str
    arrived_ms: int


class BadSeen(NamedTuple):
    """An ingress record that its sender made to be rejected."""

    reason: str
    content_crc: int


class DispatchSeen(NamedTuple):
    """A record of an egress topic."""

    source: str
    tenant: str
    job_id: str
    line: tuple[str, int]
    """Topic and partition."""
    offset: int
    due_ms: int
    at_ms: int
    """`streamsched-dispatched-at`."""
    received_ms: int
    payload_crc: int


class EventSeen(NamedTuple):
    """A record of the events topic."""

    kind: str
    tenant: str
    job_id: str
    at_ms: int
    source: str
    reason: str


class RejectedSeen(NamedTuple):
    """A record of the topic of rejected ones."""

    source: str
    reason: str
    message: str
    content_crc: int


class DeadLetterSeen(NamedTuple):
    """A record of the dead letters."""

    source: str
    tenant: str
    job_id: str
    reason: str


class SettingsSeen(NamedTuple):
    """What applies to a tenant from the timestamp of a settings record on."""

    at_ms: int
    rate: tuple[int, int] | None
    """Count and period in ms; `None` is unlimited."""
    burst: int
    paused: bool
    egress_topic: str
