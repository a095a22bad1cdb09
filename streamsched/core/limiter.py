"""The limiter: GCRA (the generic cell rate algorithm, ITU-T I.371) in exact integers.

A tenant's state is its theoretical time, the moment at which its next job may leave. Each job
moves it on by T = period/count, from where it stood and not from now, so that the lateness of a
cycle does not accumulate. Time is counted in ticks of 1/count ms, so T is exactly `period_ms`
ticks and no rate is ever rounded.

While jobs wait, the theoretical time may lag now by L = max((burst-1)*T, CATCH_UP_MS); otherwise
by (burst-1)*T. n jobs in a half-open window of length W therefore satisfy (n-1)*T < W + L, which
is the bound `count*k + max(burst, ceil(CATCH_UP_MS/T))` for a window of k periods.
"""

from typing import NamedTuple

from streamsched.core.limits import CATCH_UP_MS
from streamsched.core.rate import Rate


class Allowance(NamedTuple):
    """What a tenant may do now."""

    jobs: int
    """How many jobs may leave at this moment."""
    at_ticks: int
    """The theoretical time of the first of them, in ticks of 1/count ms."""


def full(rate: Rate, burst: int, now_ms: int) -> int:
    """The theoretical time of a tenant that may send a whole burst at once, in ticks."""
    return now_ms * rate.count - (burst - 1) * rate.period_ms


def allowance(rate: Rate, burst: int, at_ticks: int, now_ms: int, *, waiting: bool) -> Allowance:
    """How many jobs may leave at `now_ms`.

    `waiting` says that the tenant's jobs have been waiting for their rate since the last look,
    which is what entitles it to catch up for a late cycle.
    """
    now_ticks = now_ms * rate.count
    lag = (burst - 1) * rate.period_ms
    if waiting:
        lag = max(lag, CATCH_UP_MS * rate.count)
    at_ticks = max(at_ticks, now_ticks - lag)
    if at_ticks > now_ticks:
        return Allowance(0, at_ticks)
    return Allowance((now_ticks - at_ticks) // rate.period_ms + 1, at_ticks)


def spend(rate: Rate, at_ticks: int, jobs: int) -> int:
    """The theoretical time after `jobs` more jobs have left, in ticks."""
    return at_ticks + jobs * rate.period_ms


def next_ms(rate: Rate, at_ticks: int) -> int:
    """The first whole millisecond at which a job may leave."""
    return -(-at_ticks // rate.count)


def effective_burst(rate: Rate, burst: int) -> int:
    """The most jobs that may leave above `count*k` in a window of k periods."""
    return max(burst, -(-CATCH_UP_MS * rate.count // rate.period_ms))


def change(old: tuple[Rate, int] | None, at_ticks: int, new: tuple[Rate, int], now_ms: int) -> int:
    """The theoretical time under new settings, keeping the level.

    The level is the number of jobs that could leave at once under the `old` (rate, burst), capped
    at the new burst; coming from unlimited (`old` is None) it is 0. The part of the next job that
    has been waited for counts as well, down to a tick: else a tenant whose settings change more
    often than its period would never send.
    """
    rate, burst = new
    now_ticks = now_ms * rate.count
    if old is None:
        return now_ticks + rate.period_ms
    old_rate, old_burst = old
    at_ticks = allowance(old_rate, old_burst, at_ticks, now_ms, waiting=False).at_ticks
    ahead_ticks = at_ticks - now_ms * old_rate.count
    kept_ticks = -(-ahead_ticks * rate.period_ms // old_rate.period_ms)
    return now_ticks + max(kept_ticks, -(burst - 1) * rate.period_ms)
