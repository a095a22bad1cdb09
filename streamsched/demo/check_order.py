"""Checks that a tenant's jobs leave in the order of due time, then of ingress."""

from collections import defaultdict
from heapq import heappop, heappush
from typing import Final

from streamsched.demo.evidence import Evidence, TenantEvidence
from streamsched.demo.seen import DispatchSeen, JobSeen
from streamsched.demo.verdict import Verdict

NEVER_MS: Final = 1 << 62


def check_order(evidence: Evidence) -> Verdict:
    """No job leaves while one is pending that is due earlier, or as early and came before it.

    A job was pending for certain when its record had been read, and an ingress partition is read
    in order: what lies before a record that was acted upon had been read. It must be the
    partition of the tenant, on which the SDK puts its jobs; from another one a job is moved first.
    """
    read_by_ms = _read_by_ms(evidence)
    broken: list[str] = []
    lines = 0
    for tenant in evidence.tenants.values():
        by_line: dict[tuple[str, int], list[DispatchSeen]] = defaultdict(list)
        for dispatch in tenant.dispatches:
            by_line[dispatch.line].append(dispatch)
        for line in by_line.values():
            line.sort(key=lambda dispatch: dispatch.offset)
            broken += _check_line(evidence, tenant, line, read_by_ms, only=len(by_line) == 1)
        lines += len(by_line)
    checked = f"{len(evidence.ledger.dispatches):,} dispatches on {lines} egress partitions"
    return Verdict("order", checked, broken)


def _read_by_ms(evidence: Evidence) -> dict[str, int]:
    """By when the record of each job, by its source, had been read for certain.

    That is when the first of the jobs that lie at or behind it on its ingress partition ended.
    """
    by_partition: dict[int, list[tuple[int, str, int]]] = defaultdict(list)
    for tenant in evidence.tenants.values():
        for job in tenant.jobs:
            ended_ms = tenant.ended_ms(job.source)
            partition, offset = job.place
            end_ms = NEVER_MS if ended_ms is None else ended_ms
            by_partition[partition].append((offset, job.source, end_ms))
    read_by_ms: dict[str, int] = {}
    for jobs in by_partition.values():
        soonest_ms = NEVER_MS
        for _, source, end_ms in sorted(jobs, reverse=True):
            soonest_ms = min(soonest_ms, end_ms)
            read_by_ms[source] = soonest_ms
    return read_by_ms


def _check_line(
    evidence: Evidence,
    tenant: TenantEvidence,
    line: list[DispatchSeen],
    read_by_ms: dict[str, int],
    *,
    only: bool,
) -> list[str]:
    """Go along one egress partition with the jobs that surely were pending at each step."""
    jobs = evidence.ledger.jobs
    position = {dispatch.source: number for number, dispatch in enumerate(line)}
    # A job that never left would have gone to this partition only if there is no other.
    arriving = sorted(
        (job for job in tenant.jobs if job.source in position or only), key=lambda job: job.place
    )
    pending: list[tuple[tuple[int, tuple[int, int]], JobSeen]] = []
    broken: list[str] = []
    next_arrival = 0
    for number, dispatch in enumerate(line):
        job = jobs.get(dispatch.source)
        if job is None:
            continue
        while next_arrival < len(arriving) and (
            arriving[next_arrival].place < job.place
            or read_by_ms[arriving[next_arrival].source] < dispatch.at_ms
        ):
            other = arriving[next_arrival]
            heappush(pending, (_rank(other), other))
            next_arrival += 1
        while pending and _is_gone(tenant, position, number, dispatch.at_ms, pending[0][1]):
            heappop(pending)
        if pending and pending[0][0] < _rank(job):
            first = pending[0][1]
            broken.append(
                f"{job.tenant}/{job.job_id}, due at {job.due_ms}, left at {dispatch.at_ms} "
                f"before {first.job_id}, due at {first.due_ms} and there since {first.arrived_ms}"
            )
            # Said once for each job that is left behind.
            heappop(pending)
    return broken


def _rank(job: JobSeen) -> tuple[int, tuple[int, int]]:
    return job.due_ms, job.place


def _is_gone(
    tenant: TenantEvidence, position: dict[str, int], number: int, at_ms: int, job: JobSeen
) -> bool:
    """Whether the job had ended when the dispatch with this number left."""
    place = position.get(job.source)
    if place is not None:
        return place <= number
    ended_ms = tenant.ended_ms(job.source)
    if ended_ms is None and job.expires_ms:
        return at_ms > job.expires_ms
    return ended_ms is not None and ended_ms <= at_ms
