"""Putting a tenant's chosen jobs on its egress topic, in order, as far as the bounds allow."""

from collections.abc import Iterator

from streamsched.core import headers as h
from streamsched.core import limiter, outbox, state
from streamsched.core.cycle import OutRecord
from streamsched.core.destinations import Destination
from streamsched.core.draft import Candidate, Draft, PartitionState
from streamsched.core.limits import (
    CYCLE_BYTES_MAX,
    EGRESS_PARTITIONS_PER_CYCLE_MAX,
    JOBS_PER_READ_MAX,
    RECORD_OVERHEAD_BYTES_MAX,
)
from streamsched.core.placement import murmur2
from streamsched.core.store import JOBS
from streamsched.core.tenants import Tenant


class BrokenIndexError(Exception):
    """The store contradicts itself; it can be rebuilt from the changelog."""


class Sent:
    """What became of the chosen jobs."""

    __slots__ = ("jobs", "last", "taken", "too_large")

    def __init__(self) -> None:
        """Nothing was sent yet."""
        self.taken = 0
        """Jobs that have left the tenant's line, the expired ones included."""
        self.jobs = 0
        """Jobs that were dispatched."""
        self.last: Candidate | None = None
        """The last of them."""
        self.too_large = ""
        """Why the next job does not fit on the topic; empty if that is not what ended it."""


class Sending:
    """Makes egress records of the jobs of one partition."""

    def __init__(self, base: PartitionState) -> None:
        """Work on `base`."""
        self._base = base

    def run(
        self,
        draft: Draft,
        tenant: Tenant,
        destination: Destination,
        sticky: int,
        partitions: set[tuple[str, int]],
        chosen: list[Candidate],
        at_ticks: int,
    ) -> Sent:
        """Send `chosen` in order. Jobs without a key go to partition `sticky` of the topic."""
        now_ms = draft.now_ms
        topic = destination.topic
        room = destination.max_message_bytes - RECORD_OVERHEAD_BYTES_MAX
        constant = (
            (h.TENANT, tenant.raw),
            (h.DISPATCHED_AT, b"%d" % now_ms),
            (h.OCCURRENCE, b"0"),
        )
        records = draft.cycle.records
        gone: list[bytes] = []
        jobs: list[state.JobRow] = []
        sent = Sent()
        last = 0
        for job_id, key, job, size in self._rows(draft, tenant.raw, chosen):
            if job.expires_ms and job.expires_ms < now_ms:
                draft.unindex_expiry(tenant, job.expires_ms, job.sequence)
                draft.expire(tenant, job_id, job)
                gone.append(key)
                sent.taken += 1
                continue
            if size + len(job_id) * 2 > room:
                sent.too_large = (
                    f"job {job_id.decode()!r} needs about {size} bytes, max.message.bytes is "
                    f"{destination.max_message_bytes}"
                )
                break
            partition = sticky
            if job.key is not None and destination.partitions > 1:
                partition = murmur2(job.key) % destination.partitions
            if not _admit(partitions, (topic, partition)):
                break
            records.append(_egress(topic, partition, job_id, job, constant, now_ms))
            draft.unindex_expiry(tenant, job.expires_ms, job.sequence)
            gone.append(key)
            jobs.append(job)
            last = sent.taken
            sent.taken += 1
            sent.jobs += 1
            draft.bytes_out += size
            if tenant.effective.all_events:
                _tell(draft, tenant, topic, job_id, job)
            if draft.bytes_out >= CYCLE_BYTES_MAX:
                break
        draft.delete_jobs(tenant, gone)
        if jobs:
            sent.last = chosen[last]
            draft.cycle.egress_topics.add(topic)
            draft.cycle.counts["dispatched"] += sent.jobs
            _note_lateness(draft, tenant, jobs, at_ticks)
        return sent

    def _rows(
        self, draft: Draft, raw: bytes, chosen: list[Candidate]
    ) -> Iterator[tuple[bytes, bytes, state.JobRow, int]]:
        """Id, key, job and size of the chosen, read in slices: their payloads may be large.

        This cycle's own writes come before the store's.
        """
        prefix = state.job_key(raw, b"")
        known = draft.rows
        for first in range(0, len(chosen), JOBS_PER_READ_MAX):
            some = chosen[first : first + JOBS_PER_READ_MAX]
            keys = [prefix + candidate[2] for candidate in some]
            rows = self._base.store.get_many(JOBS, keys)
            for (_, sequence, job_id), key, stored in zip(some, keys, rows, strict=True):
                row = known.get(key, stored)
                job = None if row is None else state.decode_job(row)
                if row is None or job is None or job.sequence != sequence:
                    raise BrokenIndexError(
                        f"partition {self._base.partition}: the index names job {key!r} with "
                        f"sequence {sequence}, but no such row is in the store; delete the "
                        "local state to have it rebuilt from the changelog"
                    )
                yield job_id, key, job, len(row)


_Header = tuple[str, bytes]


def _egress(
    topic: str,
    partition: int,
    job_id: bytes,
    job: state.JobRow,
    constant: tuple[_Header, _Header, _Header],
    now_ms: int,
) -> OutRecord:
    """The record that a worker gets. `constant` are the headers that one cycle's jobs share."""
    of_tenant, at, occurrence = constant
    headers = [
        *job.headers,
        (h.ID, job_id),
        of_tenant,
        (h.DUE_AT, b"%d" % job.due_ms),
        at,
        occurrence,
        (h.SOURCE, b"%d-%d" % (job.source_partition, job.source_offset)),
    ]
    key = job_id if job.key is None else job.key
    return OutRecord(topic, partition, key, job.payload, headers, now_ms)


def _admit(partitions: set[tuple[str, int]], place: tuple[str, int]) -> bool:
    """Whether the cycle may write to `place`, which it then counts."""
    if place in partitions:
        return True
    if len(partitions) >= EGRESS_PARTITIONS_PER_CYCLE_MAX:
        return False
    partitions.add(place)
    return True


def _tell(draft: Draft, tenant: Tenant, topic: str, job_id: bytes, job: state.JobRow) -> None:
    source = outbox.source_of(job.source_partition, job.source_offset)
    draft.event("dispatched", tenant.name, job_id, due_at=job.due_ms, source=source, topic=topic)
    draft.cycle.counts["dispatched"] -= 1  # counted by the caller, with the others


def _note_lateness(draft: Draft, tenant: Tenant, jobs: list[state.JobRow], at_ticks: int) -> None:
    """Part each job's lateness into ours and what its tenant's rate, pause or topic caused."""
    now_ms = draft.now_ms
    pace = tenant.effective.pace
    free_since_ms = tenant.free_since_ms
    ours = draft.cycle.lateness_ms
    theirs = draft.cycle.throttled_ms
    for number, job in enumerate(jobs):
        since_ms = max(job.accepted_ms, job.due_ms)
        eligible_ms = max(free_since_ms, since_ms)
        if pace is not None:
            turn_ms = limiter.next_ms(pace[0], limiter.spend(pace[0], at_ticks, number))
            eligible_ms = max(eligible_ms, turn_ms)
        ours.append(now_ms - eligible_ms)
        theirs.append(eligible_ms - since_ms)
