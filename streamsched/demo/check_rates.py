"""Checks of rates: never above the bound, nearly all of it used, and changes that act at once."""

from collections.abc import Iterator
from typing import Final

from streamsched.core.limits import CATCH_UP_MS
from streamsched.demo.evidence import SETTLE_MS, Evidence, TenantEvidence
from streamsched.demo.seen import SettingsSeen
from streamsched.demo.spans import Span, count_in, first_after, fullest_window, without
from streamsched.demo.verdict import Verdict

WINDOWS_IN_PERIODS: Final = (1, 2, 3, 5, 10, 20, 60)
NOMINAL_SHARE_MIN: Final = 0.99
NOMINAL_OVER_MS: Final = 60_000
"""The promise of 99 % is for a minute, so 1 % of a minute's jobs may be missing, in one piece."""
BACKLOG_MS_MIN: Final = 5_000
CHANGE_LOOK_MS: Final = 3_000
"""How long the new rate is measured after a change."""


def check_windows(evidence: Evidence) -> Verdict:
    """No window of k periods holds more than k times the count and the effective burst."""
    broken: list[str] = []
    windows = 0
    fullest = 0.0
    for tenant in evidence.tenants.values():
        times_ms = tenant.times_ms
        for rate, burst, span in _rate_spans(tenant):
            count, period_ms = rate
            most_extra = _effective_burst(rate, burst)
            inside = [at_ms for at_ms in times_ms if span.holds(at_ms)]
            for periods in WINDOWS_IN_PERIODS:
                if periods * period_ms > span.length_ms and periods > 1:
                    break
                found, where_ms = fullest_window(inside, periods * period_ms)
                bound = count * periods + most_extra
                windows += len(inside)
                fullest = max(fullest, found / bound)
                if found > bound:
                    broken.append(
                        f"{tenant.name} at {_text(rate)}: {found} dispatches in "
                        f"{periods * period_ms} ms from {where_ms} on, at most {bound} allowed"
                    )
    checked = f"{windows:,} sliding windows, the fullest {fullest:.0%} of its bound"
    return Verdict("rate", checked, broken)


def check_nominal(evidence: Evidence) -> Verdict:
    """A tenant whose jobs wait without a break gets its rate."""
    broken: list[str] = []
    tenants: set[str] = set()
    lowest = 1.0
    for tenant in evidence.tenants.values():
        times_ms = tenant.times_ms
        backlog = without(tenant.backlog_spans, [*evidence.outages, *tenant.restless_spans()])
        for whole in backlog:
            # Coming under way is a matter of lateness.
            span = Span(whole.start_ms + SETTLE_MS, whole.end_ms)
            rate = tenant.settings_at(span.start_ms).rate
            if rate is None or span.length_ms < max(BACKLOG_MS_MIN, 5 * rate[1] / rate[0]):
                continue
            tenants.add(tenant.name)
            per_ms = rate[0] / rate[1]
            expected = span.length_ms * per_ms
            found = count_in(times_ms, span)
            missing = expected - found
            lowest = min(lowest, (found + 1) / expected)
            if missing > (1 - NOMINAL_SHARE_MIN) * NOMINAL_OVER_MS * per_ms + 1:
                broken.append(
                    f"{tenant.name} at {_text(rate)}: {found} of {expected:.0f} jobs "
                    f"({found / expected:.1%}) in {span.length_ms / 1000:.1f} s of backlog "
                    f"from {span.start_ms} on"
                )
    checked = f"{len(tenants)} tenants with backlog, at least {lowest:.1%} of their rate"
    return Verdict("rate used", checked, broken)


def check_pause(evidence: Evidence) -> Verdict:
    """A paused tenant stops within a second, and goes on within a second of being resumed."""
    broken: list[str] = []
    pauses = 0
    for tenant in evidence.tenants.values():
        times_ms = tenant.times_ms
        backlog = tenant.backlog_spans
        for settings, span in tenant.spans_of_settings():
            if not settings.paused:
                continue
            pauses += 1
            still = Span(span.start_ms + SETTLE_MS, max(span.end_ms, span.start_ms + SETTLE_MS))
            found = count_in(times_ms, still)
            if found:
                broken.append(f"{tenant.name}: {found} dispatches while paused")
            wait = Span(span.end_ms, span.end_ms + SETTLE_MS)
            # Nobody can resume it who was killed.
            watched = not any(wait.meets(outage) for outage in evidence.outages)
            waiting = any(busy.holds(span.end_ms) for busy in backlog)
            after_ms = first_after(times_ms, span.end_ms)
            if watched and waiting and (after_ms is None or after_ms > wait.end_ms):
                broken.append(f"{tenant.name}: resumed at {span.end_ms}, first job {after_ms}")
    return Verdict("pause", f"{pauses} pauses", broken)


def check_change(evidence: Evidence) -> Verdict:
    """A change of rate acts within a second, on the jobs that wait."""
    broken: list[str] = []
    seen: list[str] = []
    for tenant in evidence.tenants.values():
        backlog = without(tenant.backlog_spans, [*evidence.outages, *tenant.restless_spans()])
        times_ms = tenant.times_ms
        for old, new in zip(tenant.settings, tenant.settings[1:], strict=False):
            if old.at_ms == 0 or old.rate == new.rate or new.rate is None:
                continue
            look = Span(new.at_ms + SETTLE_MS, new.at_ms + SETTLE_MS + CHANGE_LOOK_MS)
            if not any(b.start_ms <= look.start_ms and look.end_ms <= b.end_ms for b in backlog):
                continue
            count, period_ms = new.rate
            found = count_in(times_ms, look)
            expected = look.length_ms * count / period_ms
            was = "unlimited" if old.rate is None else _text(old.rate)
            seen.append(f"{was} to {_text(new.rate)}: {found / look.length_ms * 1000:.0f}/s")
            if not expected * 0.9 - 1 <= found <= expected + _effective_burst(new.rate, new.burst):
                broken.append(
                    f"{tenant.name}, {was} to {_text(new.rate)}: {found} dispatches instead of "
                    f"{expected:.0f} in 3 s from a second after the change on"
                )
    return Verdict("change of rate", "; ".join(seen) or "none under backlog", broken)


def _rate_spans(tenant: TenantEvidence) -> Iterator[tuple[tuple[int, int], int, Span]]:
    """Each rate and burst with the time during which they surely were what applied.

    A pause does not change them: the credit that accrues meanwhile is within the burst.
    """
    spans = tenant.spans_of_settings()
    number = 0
    while number < len(spans):
        first, span = spans[number]
        end_ms = span.end_ms
        while number + 1 < len(spans) and _pace(spans[number + 1][0]) == _pace(first):
            number += 1
            end_ms = spans[number][1].end_ms
        number += 1
        # What came before its first settings record has nothing to be late for.
        settle_ms = SETTLE_MS if first.at_ms else 0
        if first.rate is not None and end_ms > first.at_ms + settle_ms:
            yield first.rate, first.burst, Span(first.at_ms + settle_ms, end_ms)


def _pace(settings: SettingsSeen) -> tuple[tuple[int, int] | None, int]:
    return settings.rate, settings.burst


def _effective_burst(rate: tuple[int, int], burst: int) -> int:
    """Jobs above the nominal count that the contract allows: 250 ms worth, or the burst."""
    count, period_ms = rate
    return max(burst, -(-CATCH_UP_MS * count // period_ms))


def _text(rate: tuple[int, int]) -> str:
    count, period_ms = rate
    period = f"{period_ms}ms" if period_ms % 1_000 else f"{period_ms // 1_000}s"
    return f"{count}/{period.removeprefix('1') if period == '1s' else period}"
