"""Judges a scheduler that was ill-treated, by what a reader of the topics alone has seen.

What holds at any time is judged as the demo's checker judges it. What faults excuse there is not
excused here: every job must have ended, and the order is checked against the moment at which
each job was accepted, which the event `scheduled` tells, instead of against its arrival.
"""

import copy
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final, NamedTuple

from streamsched.core.names import DEFAULT_TENANT
from streamsched.demo.check_outcomes import (
    check_records,
    check_rejected,
    check_time,
    unanswered,
    unfounded_replacements,
)
from streamsched.demo.check_rates import check_windows
from streamsched.demo.evidence import Evidence, Facts
from streamsched.demo.ledger import Ledger
from streamsched.demo.seen import DispatchSeen, JobSeen
from streamsched.demo.spans import Span, quantile
from streamsched.demo.verdict import Verdict

CALM: Final = "calm"
READING_LAG_MS: Final = 10_000
"""A record committed this long before its topic was deleted has been read before."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """An egress topic that was deleted at some moment between the two."""

    topic: str
    began_ms: int
    ended_ms: int


class Trouble(NamedTuple):
    """From the beginning of a fault until everything worked again."""

    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What no topic tells."""

    end_ms: int
    faults: Sequence[Trouble] = ()
    deletions: Sequence[Deletion] = ()
    acknowledged: frozenset[tuple[str, str]] = field(default_factory=frozenset)
    """Tenant and id of jobs that Kafka has confirmed to their sender."""


def judge(ledger: Ledger, circumstances: Circumstances) -> list[Verdict]:
    """Check every promise on what was read; the ledger must be complete."""
    told = _tenants_that_tell_all(ledger)
    vanished, unexplained = _vanished(ledger, circumstances, told)
    whole = copy.copy(ledger)
    whole.dispatches = [*ledger.dispatches, *vanished]
    evidence = Evidence(whole, Facts(circumstances.end_ms))
    return [
        _check_received(ledger, circumstances),
        _check_once(evidence, len(vanished)),
        _check_told(evidence, told, unexplained),
        check_time(evidence),
        _check_answers(evidence),
        check_records(evidence),
        check_rejected(evidence),
        check_windows(evidence),
        _check_order(evidence, told),
        _tell_lateness(evidence, circumstances.faults),
    ]


def _tenants_that_tell_all(ledger: Ledger) -> set[str]:
    """Tenants whose events say when each job was accepted and when it left."""
    fields = {record.tenant: record.fields or {} for record in ledger.settings}
    default = fields.get(DEFAULT_TENANT, {}).get("events")
    tenants = {job.tenant for job in ledger.jobs.values()}
    return {name for name in tenants if fields.get(name, {}).get("events", default) == "all"}


def _vanished(
    ledger: Ledger, circumstances: Circumstances, told: set[str]
) -> tuple[list[DispatchSeen], list[str]]:
    """Dispatches that went with their topic before they could be read, and those that did not.

    The event `dispatched` is committed in the transaction of the record that it tells of, on a
    topic that nobody deletes.
    """
    seen = {dispatch.source for dispatch in ledger.dispatches}
    vanished: list[DispatchSeen] = []
    unexplained: list[str] = []
    for event in ledger.events:
        if event.kind != "dispatched" or event.source in seen or event.tenant not in told:
            continue
        topic = ledger.names.egress(event.tenant)
        job = ledger.jobs.get(event.source)
        went_along = any(
            gone.topic == topic and gone.began_ms - READING_LAG_MS <= event.at_ms <= gone.ended_ms
            for gone in circumstances.deletions
        )
        if job is None or not went_along:
            unexplained.append(
                f"{event.tenant}/{event.job_id} ({event.source}): an event says that it was "
                f"dispatched at {event.at_ms}, but {topic} has no record of it"
            )
            continue
        crc = job.payload_crc or 0
        place = (f"{topic}~gone", 0)
        vanished.append(
            DispatchSeen(
                event.source,
                job.tenant,
                job.job_id,
                place,
                len(vanished),
                job.due_ms,
                event.at_ms,
                event.at_ms,
                crc,
            )
        )
    return vanished, unexplained


def _check_received(ledger: Ledger, circumstances: Circumstances) -> Verdict:
    """What Kafka has confirmed to the sender is in the ingress topic."""
    there = {(job.tenant, job.job_id) for job in ledger.jobs.values()}
    broken = [
        f"{tenant}/{job_id} was acknowledged by Kafka and is not in the ingress topic"
        for tenant, job_id in sorted(circumstances.acknowledged - there)
    ]
    return Verdict("ingress", f"{len(circumstances.acknowledged):,} acknowledged jobs", broken)


def _check_once(evidence: Evidence, vanished: int) -> Verdict:
    """Each accepted job has ended exactly once; none is pending."""
    ledger = evidence.ledger
    broken = [
        f"job {source} ended as {endings[0][0]} at {endings[0][1]} but was never submitted"
        for source, endings in evidence.endings.items()
        if source not in ledger.jobs
    ]
    counts: Counter[str] = Counter()
    for job in ledger.jobs.values():
        endings = evidence.endings.get(job.source, ())
        if len(endings) == 1:
            counts[endings[0][0]] += 1
        elif endings:
            what = ", ".join(f"{kind} at {at_ms}" for kind, at_ms in endings)
            broken.append(f"{_name(job)} ended {len(endings)} times: {what}")
        else:
            broken.append(f"{_name(job)}, due at {job.due_ms}, never ended in any way")
    if counts["undeliverable"]:
        broken.append(f"{counts['undeliverable']} jobs ended as undeliverable, and none is")
    broken += ledger.unreadable
    parts = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())
    gone = f"; {vanished:,} of them on topics that were deleted" if vanished else ""
    return Verdict("once", f"{len(ledger.jobs):,} jobs: {parts or 'none ended'}{gone}", broken)


def _check_told(evidence: Evidence, told: set[str], unexplained: Sequence[str]) -> Verdict:
    """Events tell exactly once that a job was accepted, and that it left, and only if it did."""
    ledger = evidence.ledger
    counts = Counter((event.kind, event.source) for event in ledger.events)
    dispatched = {dispatch.source for dispatch in ledger.dispatches}
    broken = list(unexplained)
    looked_at = 0
    for job in ledger.jobs.values():
        if job.tenant not in told:
            continue
        looked_at += 1
        accepted = counts["scheduled", job.source]
        if accepted != 1:
            broken.append(f"{_name(job)} was accepted {accepted} times, as events tell")
        left = counts["dispatched", job.source]
        if left != (job.source in dispatched):
            broken.append(f"{_name(job)}: {left} events tell that it was dispatched")
    return Verdict("events", f"{looked_at:,} jobs whose events tell all", broken)


def _check_answers(evidence: Evidence) -> Verdict:
    """Each cancel has exactly one answer, and what was replaced was so by a later job."""
    kinds = Counter(event.kind for event in evidence.ledger.events)
    checked = (
        f"{len(evidence.ledger.cancels):,} cancels: {kinds['cancelled']:,} cancelled, "
        f"{kinds['cancel_not_found']:,} not found; {kinds['replaced']:,} replaced"
    )
    broken = [*unanswered(evidence), *unfounded_replacements(evidence)]
    return Verdict("identity", checked, broken)


def _check_order(evidence: Evidence, told: set[str]) -> Verdict:
    """No job leaves while one is pending that is due earlier, or as early and came before it."""
    accepted_ms = {
        event.source: event.at_ms for event in evidence.ledger.events if event.kind == "scheduled"
    }
    broken: list[str] = []
    looked_at = 0
    for tenant in evidence.tenants.values():
        if tenant.name not in told:
            continue
        # One egress partition a tenant, so all that left did so in one line.
        line = sorted(tenant.dispatches, key=lambda one: (one.at_ms, one.line, one.offset))
        looked_at += len(line)
        place = {dispatch.source: number for number, dispatch in enumerate(line)}
        arriving = sorted(
            (job for job in tenant.jobs if job.source in accepted_ms),
            key=lambda job: accepted_ms[job.source],
        )
        arrived = 0
        pending: list[tuple[tuple[int, tuple[int, int]], JobSeen]] = []
        for number, dispatch in enumerate(line):
            job = evidence.ledger.jobs.get(dispatch.source)
            if job is None:
                continue
            while (
                arrived < len(arriving) and accepted_ms[arriving[arrived].source] < dispatch.at_ms
            ):
                heappush(pending, (_rank(arriving[arrived]), arriving[arrived]))
                arrived += 1
            while pending and _had_ended(
                place.get(pending[0][1].source),
                tenant.ended_ms(pending[0][1].source),
                number,
                dispatch.at_ms,
            ):
                heappop(pending)
            if pending and pending[0][0] < _rank(job):
                first = heappop(pending)[1]
                broken.append(
                    f"{_name(job)}, due at {job.due_ms}, left at {dispatch.at_ms} before "
                    f"{first.job_id} ({first.source}), due at {first.due_ms} and accepted at "
                    f"{accepted_ms[first.source]}"
                )
    return Verdict("order", f"{looked_at:,} dispatches", broken)


def _had_ended(place: int | None, ended_ms: int | None, number: int, at_ms: int) -> bool:
    """Whether a job had ended when the dispatch with this number left."""
    if place is not None:
        return place <= number
    # One that never ended is told by another check.
    return ended_ms is None or ended_ms <= at_ms


def _rank(job: JobSeen) -> tuple[int, tuple[int, int]]:
    return job.due_ms, job.place


def _tell_lateness(evidence: Evidence, faults: Sequence[Trouble]) -> Verdict:
    """How late jobs without a rate were received: by the first fault that met them, if any."""
    late_ms: dict[str, list[int]] = defaultdict(list)
    for tenant in evidence.tenants.values():
        if any(settings.rate is not None for settings in tenant.settings):
            continue
        jobs = {job.source: job for job in tenant.jobs}
        for dispatch in tenant.dispatches:
            job = jobs.get(dispatch.source)
            if job is None:
                continue
            under_way = Span(job.arrived_ms, dispatch.received_ms + 1)
            met = next((fault.name for fault in faults if under_way.meets(fault.span)), CALM)
            late_ms[met].append(max(0, dispatch.received_ms - job.ready_ms))
    calm = sorted(late_ms.pop(CALM, []))
    told = []
    if calm:
        p50, p99 = quantile(calm, 0.5), quantile(calm, 0.99)
        told.append(f"calm {len(calm):,}: p50 {p50} ms, p99 {p99} ms, longest {calm[-1]} ms")
    longest = sorted((max(found), name) for name, found in late_ms.items())
    if longest:
        through = ", ".join(f"{name} {found / 1000:.1f} s" for found, name in longest)
        told.append(f"longest through {through}")
    broken = [] if told else ["no unthrottled job was received"]
    return Verdict("lateness", "; ".join(told), broken)


def _name(job: JobSeen) -> str:
    return f"{job.tenant}/{job.job_id} ({job.source})"
