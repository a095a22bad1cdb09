"""Checks of lateness: small while nobody fails, bounded when a scheduler is killed."""

from typing import Final

from streamsched.demo.evidence import RECOVERY_MS_MAX, Evidence, TenantEvidence
from streamsched.demo.spans import Span, quantile
from streamsched.demo.verdict import Verdict

P99_MS_MAX: Final = 1_000
OWN_RATE_MS_MAX: Final = 250
"""A job that its tenant's own rate delays for longer says nothing about the scheduler."""


def check_lateness(evidence: Evidence) -> Verdict:
    """Jobs that their tenant's rate does not hold up arrive on time, kills aside."""
    late_ms: list[int] = []
    for tenant in evidence.tenants.values():
        late_ms += _lateness_ms(evidence, tenant)
    if not late_ms:
        return Verdict("lateness", "no job to judge it by", ["no unthrottled job was received"])
    late_ms.sort()
    p50, p99, most = (quantile(late_ms, share) for share in (0.5, 0.99, 1.0))
    checked = f"{len(late_ms):,} unthrottled jobs: p50 {p50} ms, p99 {p99} ms, max {most} ms"
    broken = [] if p99 < P99_MS_MAX else [f"p99 is {p99} ms, and has to be under {P99_MS_MAX} ms"]
    return Verdict("lateness", checked, broken)


def check_recovery(evidence: Evidence) -> Verdict:
    """After the loss of a scheduler every tenant is served again in time."""
    broken: list[str] = []
    said: list[str] = []
    for recovery in evidence.recoveries:
        said.append(
            f"kill -9: {recovery.active} tenants waited, {recovery.gap_ms / 1000:.1f} s at most"
        )
        if recovery.never_back:
            names = ", ".join(recovery.never_back[:5])
            broken.append(f"after the kill at {recovery.kill_ms} nothing more came for {names}")
        elif recovery.gap_ms > RECOVERY_MS_MAX:
            broken.append(
                f"{recovery.gap_ms} ms without a dispatch after the kill at {recovery.kill_ms}, "
                f"at most {RECOVERY_MS_MAX} ms allowed"
            )
        elif not recovery.active:
            broken.append(f"the kill at {recovery.kill_ms} hit nobody: it proves nothing")
    return Verdict("recovery", "; ".join(said) or "no scheduler was killed", broken)


def _lateness_ms(evidence: Evidence, tenant: TenantEvidence) -> list[int]:
    """Lateness of a tenant's unthrottled jobs, sorted out by when its rate lets each one leave.

    That moment follows from the published settings alone: each job in order of due time, one
    interval after the one before it. It is worked out strictly (burst 1), which is at worst
    kinder to the scheduler by the length of a burst.
    """
    jobs = evidence.ledger.jobs
    received = {dispatch.source: dispatch for dispatch in tenant.dispatches}
    restless = [*evidence.outages, *tenant.restless_spans()]
    pauses = [span for settings, span in tenant.spans_of_settings() if settings.paused]
    found: list[int] = []
    free_ms = 0.0
    for job in sorted(tenant.jobs, key=lambda job: (job.ready_ms, job.due_ms, job.place)):
        dispatch = received.get(job.source)
        if dispatch is None or job.source not in jobs:
            continue
        ready_ms = job.ready_ms
        settings = tenant.settings_at(ready_ms)
        may_leave_ms = max(float(ready_ms), free_ms, *_outage_ends(restless, ready_ms))
        if settings.rate is not None:
            count, period_ms = settings.rate
            free_ms = may_leave_ms + period_ms / count
        by_rate_ms = may_leave_ms - ready_ms
        reading_since_ms = evidence.ledger.reading_since_ms.get(dispatch.line[0], 0)
        begin_ms = max(reading_since_ms, evidence.facts.start_ms)
        if by_rate_ms > OWN_RATE_MS_MAX or ready_ms < begin_ms:
            continue
        if any(span.holds(ready_ms) for span in restless):
            continue
        # One that was due the moment before a pause may have been caught by it.
        if any(span.meets(Span(ready_ms, dispatch.at_ms)) for span in pauses):
            continue
        found.append(max(0, dispatch.received_ms - int(may_leave_ms)))
    return found


def _outage_ends(spans: list[Span], at_ms: int) -> list[float]:
    return [float(span.end_ms) for span in spans if span.holds(at_ms)]
