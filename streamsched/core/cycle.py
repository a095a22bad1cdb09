"""One cycle of a partition as a value: what to write, what to send, when to wake next."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from streamsched.core.commands import IngressRecord
from streamsched.core.store import Write


class Chunk(NamedTuple):
    """Ingress records of one partition, in order, from one position to another.

    `next_offset` may lie beyond the last record + 1, and records may leave gaps: commit markers
    and aborted records take offsets too.
    """

    from_offset: int
    next_offset: int
    records: Sequence[IngressRecord]


class OutRecord(NamedTuple):
    """A record to produce. `partition` -1 leaves the choice to the key (murmur2)."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp_ms: int


class Probe(NamedTuple):
    """What a cycle sends to a topic that is on trial; who and what, if it is one job alone."""

    tenant: str
    job_id: bytes
    line: tuple[int, int]
    """Due_ms and sequence of the job."""
    jobs: int
    """How many jobs go there; the other fields are those of the last."""


@dataclass(slots=True)
class Cycle:
    """What one `run_once` decided. Nothing of it is true before its transaction is committed."""

    base_changelog_offset: int
    """The changelog offset of the state that the cycle was computed from."""
    now_ms: int
    records: list[OutRecord] = field(default_factory=list)
    """Egress, moved jobs, rejected records, dead letters, events."""
    changelog: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    """Puts and tombstones of state, the position last. Empty: there is nothing to commit."""
    batch: list[Write] = field(default_factory=list)
    """What to apply to the store, atomically, once the transaction is committed."""
    next_offset: int = 0
    wake_at_ms: int = 0
    """When the partition should be looked at again, unless records arrive before."""
    egress_topics: set[str] = field(default_factory=set)
    probes: dict[str, Probe] = field(default_factory=dict)
    """By topic that is on trial: what goes there. The fate of these records must be looked at."""
    counts: Counter[str] = field(default_factory=Counter)
    """Outcomes by name: accepted, moved, cancelled, dispatched, …, and `rejected:CODE`."""
    lateness_ms: list[int] = field(default_factory=list)
    """Per dispatched job, how late it left through the scheduler's doing."""
    throttled_ms: list[int] = field(default_factory=list)
    """Per dispatched job, how long its tenant's own rate or pause held it past due."""

    @property
    def needs_transaction(self) -> bool:
        """Whether anything must reach Kafka before the batch may be applied."""
        return bool(self.changelog or self.records)
