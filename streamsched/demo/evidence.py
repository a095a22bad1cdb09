"""The ledger in the order in which checks look at it, worked out once."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from streamsched.demo.ledger import ENDING_EVENTS, Ledger
from streamsched.demo.seen import DispatchSeen, JobSeen, SettingsSeen
from streamsched.demo.spans import Span, busy_spans, first_after

RECOVERY_MS_MAX: Final = 15_000
"""The promise for the loss of a scheduler."""
ACTIVE_MS: Final = 3_000
"""How long before a kill a tenant must have been dispatched to count as active."""
ACTIVE_JOBS_MIN: Final = 5
SETTLE_MS: Final = 1_000
"""How long a change of settings, or a scheduler that is back, may take to show everywhere."""

Ending = tuple[str, int]
"""How a job ended, and when in ms: `dispatched` or the kind of its event."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What no topic tells: when schedulers were killed, and when looking began and ended."""

    end_ms: int
    kills_ms: Sequence[int] = ()
    start_ms: int = 0
    """Jobs that were due before then were to warm Kafka up: how late they were is not judged."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """One loss of a scheduler, as the tenants saw it."""

    kill_ms: int
    gap_ms: int
    """The longest time without a dispatch of any tenant that had jobs to send."""
    back_ms: int
    """When the last of them was served again."""
    active: int
    never_back: Sequence[str] = ()


@dataclass(frozen=True)
class TenantEvidence:
    """All there is about one tenant; times are in ms."""

    name: str
    jobs: Sequence[JobSeen]
    dispatches: Sequence[DispatchSeen]
    """In the order in which they left."""
    settings: Sequence[SettingsSeen]
    endings: Mapping[str, Sequence[Ending]]
    """By source."""
    end_ms: int

    @cached_property
    def times_ms(self) -> list[int]:
        """When each dispatch left, sorted."""
        return [dispatch.at_ms for dispatch in self.dispatches]

    def ended_ms(self, source: str) -> int | None:
        """When the job ended for the first time; `None` while it is pending."""
        return min((at_ms for _, at_ms in self.endings.get(source, ())), default=None)

    def settings_at(self, at_ms: int) -> SettingsSeen:
        """What was published last at a moment."""
        return [one for one in self.settings if one.at_ms <= at_ms][-1]

    def spans_of_settings(self) -> list[tuple[SettingsSeen, Span]]:
        """Each state of the settings with the time during which it was the newest."""
        ends_ms = [*(one.at_ms for one in self.settings[1:]), self.end_ms + 1]
        return [
            (one, Span(one.at_ms, end_ms))
            for one, end_ms in zip(self.settings, ends_ms, strict=True)
        ]

    @cached_property
    def backlog_spans(self) -> list[Span]:
        """When at least one job was due and had not ended."""
        changes: list[tuple[int, int]] = []
        for job in self.jobs:
            ended_ms = self.ended_ms(job.source)
            if ended_ms is None:
                changes.append((job.ready_ms, 1))
            elif ended_ms > job.ready_ms:
                changes += [(job.ready_ms, 1), (ended_ms, -1)]
        return busy_spans(changes, self.end_ms)

    def restless_spans(self) -> list[Span]:
        """Pauses, and the moment after each change, in which old or new settings may act."""
        spans = [Span(one.at_ms, one.at_ms + SETTLE_MS) for one in self.settings[1:]]
        return spans + [span for one, span in self.spans_of_settings() if one.paused]


class Evidence:
    """The whole ledger, by tenant."""

    def __init__(self, ledger: Ledger, facts: Facts) -> None:
        """Sort everything; the ledger must not change any more."""
        self.ledger = ledger
        self.facts = facts
        self.endings = _endings(ledger)
        jobs: dict[str, list[JobSeen]] = defaultdict(list)
        for job in ledger.jobs.values():
            jobs[job.tenant].append(job)
        dispatches: dict[str, list[DispatchSeen]] = defaultdict(list)
        for dispatch in ledger.dispatches:
            dispatches[dispatch.tenant].append(dispatch)
        self.tenants = {
            name: TenantEvidence(
                name,
                sorted(jobs[name], key=lambda job: (job.arrived_ms, job.place)),
                sorted(dispatches[name], key=lambda one: (one.at_ms, one.line, one.offset)),
                ledger.settings_of(name),
                self.endings,
                facts.end_ms,
            )
            for name in sorted(jobs.keys() | dispatches.keys())
        }
        self.recoveries = [self._recovery(at_ms) for at_ms in facts.kills_ms]
        self.outages = [
            Span(
                recovery.kill_ms - SETTLE_MS,
                min(recovery.back_ms, recovery.kill_ms + RECOVERY_MS_MAX) + SETTLE_MS,
            )
            for recovery in self.recoveries
        ]
        """When a killed scheduler excuses what is late, its promised recovery at most."""

    def _recovery(self, kill_ms: int) -> Recovery:
        gap_ms, back_ms, active = 0, kill_ms, 0
        never_back: list[str] = []
        for tenant in self.tenants.values():
            times_ms = tenant.times_ms
            before = [at_ms for at_ms in times_ms if kill_ms - ACTIVE_MS < at_ms <= kill_ms]
            waiting = any(
                job.ready_ms <= kill_ms + SETTLE_MS
                and (tenant.ended_ms(job.source) or kill_ms + 1) > kill_ms
                for job in tenant.jobs
            )
            state = tenant.settings_at(kill_ms)
            if len(before) < ACTIVE_JOBS_MIN or not waiting or state.paused:
                continue
            active += 1
            after_ms = first_after(times_ms, kill_ms)
            if after_ms is None:
                never_back.append(tenant.name)
                continue
            gap_ms = max(gap_ms, after_ms - before[-1])
            back_ms = max(back_ms, after_ms)
        if never_back:
            gap_ms = back_ms = max(self.facts.end_ms - kill_ms, 0)
            back_ms += kill_ms
        return Recovery(kill_ms, gap_ms, back_ms, active, never_back)


def _endings(ledger: Ledger) -> dict[str, list[Ending]]:
    found: dict[str, list[Ending]] = defaultdict(list)
    for dispatch in ledger.dispatches:
        found[dispatch.source].append(("dispatched", dispatch.at_ms))
    for event in ledger.events:
        if event.kind in ENDING_EVENTS:
            found[event.source].append((event.kind, event.at_ms))
    return dict(found)


def counts_by_kind(ledger: Ledger) -> Counter[str]:
    """How often each kind of event was seen."""
    return Counter(event.kind for event in ledger.events)
