"""Checks that every job ends once, in time, with its record, and every bad record is refused."""

from collections import Counter, defaultdict
from itertools import pairwise

from streamsched.demo.evidence import SETTLE_MS, Evidence, TenantEvidence, counts_by_kind
from streamsched.demo.seen import CancelSeen, JobSeen
from streamsched.demo.spans import Span, count_in
from streamsched.demo.verdict import Verdict

DUE_GRACE_MS = 2_000
"""A job that became due this shortly before the end of looking may be on its way."""


def check_once(evidence: Evidence) -> Verdict:
    """Each accepted job ends exactly once, or is pending for a reason that can be seen."""
    ledger = evidence.ledger
    broken = [
        f"job {source} ended as {kinds[0]} but was never submitted"
        for source, endings in evidence.endings.items()
        if source not in ledger.jobs and (kinds := [kind for kind, _ in endings])
    ]
    counts: Counter[str] = Counter()
    for tenant in evidence.tenants.values():
        excuse = _excuse_to_be_pending(evidence, tenant)
        for job in tenant.jobs:
            endings = evidence.endings.get(job.source, ())
            if len(endings) > 1:
                what = ", ".join(f"{kind} at {at_ms}" for kind, at_ms in endings)
                broken.append(f"{_name(job)} ended {len(endings)} times: {what}")
            elif endings:
                counts[endings[0][0]] += 1
            elif job.ready_ms > evidence.facts.end_ms - DUE_GRACE_MS:
                counts["not due yet"] += 1
            elif excuse:
                counts[excuse] += 1
            else:
                broken.append(f"{_name(job)}, due at {job.due_ms}, never ended in any way")
    broken += ledger.unreadable
    parts = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())
    return Verdict("once", f"{len(ledger.jobs):,} jobs: {parts or 'none ended'}", broken)


def _excuse_to_be_pending(evidence: Evidence, tenant: TenantEvidence) -> str:
    """Why due jobs of the tenant may be pending at the end; empty where nothing allows it."""
    end_ms = evidence.facts.end_ms
    now = tenant.settings[-1]
    if now.paused:
        return "still paused"
    if now.rate is None:
        return ""
    # It is throttled only if its rate was used up to the end.
    count, period_ms = now.rate
    span_ms = max(2 * period_ms, DUE_GRACE_MS)
    seen = count_in(tenant.times_ms, Span(end_ms - span_ms, end_ms))
    return "still throttled" if seen >= count * span_ms / period_ms * 0.9 - 1 and seen else ""


def check_identity(evidence: Evidence) -> Verdict:
    """A cancelled or replaced job does not leave afterwards; each cancel has its answer."""
    broken = [*_overtaken(evidence), *unanswered(evidence), *unfounded_replacements(evidence)]
    kinds = counts_by_kind(evidence.ledger)
    checked = (
        f"{len(evidence.ledger.cancels):,} cancels: {kinds['cancelled']:,} cancelled, "
        f"{kinds['cancel_not_found']:,} not found; {kinds['replaced']:,} replaced"
    )
    return Verdict("identity", checked, broken)


def _overtaken(evidence: Evidence) -> list[str]:
    """Jobs that ended in another way long after a cancel or a replacement had arrived."""
    history: dict[tuple[str, str], list[JobSeen | CancelSeen]] = defaultdict(list)
    for job in evidence.ledger.jobs.values():
        history[job.tenant, job.job_id].append(job)
    for cancel in evidence.ledger.cancels:
        history[cancel.tenant, cancel.job_id].append(cancel)
    broken: list[str] = []
    for records in history.values():
        for before, after in pairwise(sorted(records, key=lambda record: record.place)):
            if isinstance(before, CancelSeen):
                continue
            word = "cancelled" if isinstance(after, CancelSeen) else "replaced"
            broken += [
                f"{_name(before)} was {word} at {after.arrived_ms}, yet {kind} at {at_ms}"
                for kind, at_ms in evidence.endings.get(before.source, ())
                if kind not in (word, "expired") and at_ms > after.arrived_ms + SETTLE_MS
            ]
    return broken


def unanswered(evidence: Evidence) -> list[str]:
    """Cancels without exactly one event, and such events without a cancel."""
    asked = Counter((cancel.tenant, cancel.job_id) for cancel in evidence.ledger.cancels)
    answered = Counter(
        (event.tenant, event.job_id)
        for event in evidence.ledger.events
        if event.kind in ("cancelled", "cancel_not_found")
    )
    return [
        f"{tenant}/{job_id}: {asked[tenant, job_id]} cancels, "
        f"{answered[tenant, job_id]} answers to them"
        for tenant, job_id in asked.keys() | answered.keys()
        if asked[tenant, job_id] != answered[tenant, job_id]
    ]


def unfounded_replacements(evidence: Evidence) -> list[str]:
    """Jobs that an event calls replaced though no later one of their tenant and id was submitted.

    Which of two records of different partitions was later, their offsets do not tell.
    """
    jobs = evidence.ledger.jobs
    places: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for job in jobs.values():
        places[job.tenant, job.job_id].append(job.place)
    broken: list[str] = []
    for event in evidence.ledger.events:
        replaced = jobs.get(event.source)
        if event.kind != "replaced" or replaced is None:
            continue
        own_partition, own_offset = replaced.place
        if not any(
            partition != own_partition or offset > own_offset
            for partition, offset in places[replaced.tenant, replaced.job_id]
        ):
            broken.append(
                f"{_name(replaced)} was replaced at {event.at_ms}, but no later job has its id"
            )
    return broken


def check_time(evidence: Evidence) -> Verdict:
    """No job leaves before it is due or after it expired, and what leaves is what came."""
    jobs = evidence.ledger.jobs
    broken: list[str] = []
    for dispatch in evidence.ledger.dispatches:
        job = jobs.get(dispatch.source)
        if job is None:
            continue
        if dispatch.at_ms < job.due_ms:
            broken.append(f"{_name(job)} left {job.due_ms - dispatch.at_ms} ms before it was due")
        if dispatch.due_ms != job.due_ms:
            broken.append(f"{_name(job)} is due at {job.due_ms}, its record says {dispatch.due_ms}")
        if job.expires_ms and dispatch.at_ms > job.expires_ms:
            late_ms = dispatch.at_ms - job.expires_ms
            broken.append(f"{_name(job)} left {late_ms} ms after it had expired")
        if (dispatch.tenant, dispatch.job_id) != (job.tenant, job.job_id):
            broken.append(f"{_name(job)} left as {dispatch.tenant}/{dispatch.job_id}")
        if job.payload_crc not in (None, dispatch.payload_crc):
            broken.append(f"{_name(job)} left with another payload")
    with_expiry = sum(job.expires_ms > 0 for job in jobs.values())
    checked = f"{len(evidence.ledger.dispatches):,} dispatches, {with_expiry:,} jobs with expiry"
    return Verdict("time", checked, broken)


def check_records(evidence: Evidence) -> Verdict:
    """Each expired job had an expiry, and leaves a dead letter and its event when that is over."""
    ledger = evidence.ledger
    letters = Counter(letter.source for letter in ledger.dead_letters)
    events = Counter(
        event.source for event in ledger.events if event.kind in ("expired", "undeliverable")
    )
    broken = [
        f"{source}: {events[source]} events and {letters[source]} dead letters"
        for source in letters.keys() | events.keys()
        if not letters[source] == events[source] == 1
    ]
    for event in ledger.events:
        job = ledger.jobs.get(event.source)
        if event.kind != "expired" or job is None:
            continue
        if not job.expires_ms:
            broken.append(f"{_name(job)} expired at {event.at_ms}, though it has no expiry")
        elif event.at_ms <= job.expires_ms:
            broken.append(f"{_name(job)} expired at {event.at_ms}, before {job.expires_ms}")
    return Verdict("dead letters", f"{len(ledger.dead_letters):,} with their events", broken)


def check_rejected(evidence: Evidence) -> Verdict:
    """Each bad record is rejected once, for its reason, untouched; no other record is."""
    ledger = evidence.ledger
    seen = Counter(one.source for one in ledger.rejected)
    events = Counter(event.source for event in ledger.events if event.kind == "rejected")
    broken = [
        f"bad record {source} ({bad.reason}): rejected {seen[source]} times, "
        f"{events[source]} events"
        for source, bad in ledger.bad.items()
        if not seen[source] == events[source] == 1
    ]
    for one in ledger.rejected:
        bad = ledger.bad.get(one.source)
        if bad is None:
            broken.append(f"record {one.source} was rejected ({one.reason}) though it is good")
        elif bad.reason != one.reason:
            broken.append(f"record {one.source}: {one.reason} instead of {bad.reason}")
        elif not one.message or bad.content_crc != one.content_crc:
            broken.append(f"record {one.source}: without a message, or not as it was sent")
    reasons = len({bad.reason for bad in ledger.bad.values()})
    return Verdict("rejected", f"{len(ledger.bad):,} bad records, {reasons} reasons", broken)


def _name(job: JobSeen) -> str:
    return f"{job.tenant}/{job.job_id} ({job.source})"
