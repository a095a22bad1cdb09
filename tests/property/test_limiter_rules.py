"""Window bound and throughput of the limiter, for any rate and any rhythm of cycles."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from streamsched.core import limiter
from streamsched.core.rate import Rate
from streamsched.testing import Driver
from tests.property.strategies import rates

START_MS = 1_800_000_000_000


def backlog(rate: Rate, burst: int, cycles: list[int], restarts: set[int]) -> list[tuple[int, int]]:
    """Serve an endless backlog; a restart forgets that jobs were waiting. (moment, jobs)."""
    at = limiter.full(rate, burst, cycles[0])
    waiting = False
    left: list[tuple[int, int]] = []
    for number, now_ms in enumerate(cycles):
        if number in restarts:
            waiting = False
        allowed = limiter.allowance(rate, burst, at, now_ms, waiting=waiting)
        waiting = True
        if allowed.jobs:
            at = limiter.spend(rate, allowed.at_ticks, allowed.jobs)
            left.append((now_ms, allowed.jobs))
    return left


def check_windows(left: list[tuple[int, int]], rate: Rate, burst: int) -> None:
    """Every window that starts at a dispatch keeps the bound."""
    extra = limiter.effective_burst(rate, burst)
    for length in (1, 2, 5, 50):
        total = first = 0
        for now_ms, jobs in left:
            total += jobs
            while left[first][0] <= now_ms - length * rate.period_ms:
                total -= left[first][1]
                first += 1
            assert total <= rate.count * length + extra


@given(rates, st.integers(1, 40), st.integers(0, 2**32), st.sampled_from([0, 3_000, 60_000]))
def test_window_bound_with_jitter_and_stalls(
    rate: Rate, burst: int, seed: int, stall_ms: int
) -> None:
    """However cycles come, with stalls and restarts, no window holds more than the bound."""
    rng = random.Random(seed)
    now_ms, cycles = START_MS, []
    for _ in range(800):
        cycles.append(now_ms)
        now_ms += rng.randint(1, 100) + (stall_ms if rng.random() < 0.01 else 0)
    restarts = {number for number in range(800) if rng.random() < 0.01}
    check_windows(backlog(rate, burst, cycles, restarts), rate, burst)


@given(rates, st.integers(1, 40), st.integers(0, 2**32), st.integers(1, 240))
def test_nominal_rate_is_reached(rate: Rate, burst: int, seed: int, step_ms: int) -> None:
    """Over 60 s and 100 T of backlog at least 99 % of nominal leave, with cycles up to 240 ms."""
    rng = random.Random(seed)
    span_ms = max(60_000, -(-100 * rate.period_ms // rate.count))
    at_ms, cycles = START_MS, []
    waits_ms = max(step_ms, rate.period_ms // rate.count // 20)
    while at_ms < START_MS + span_ms:
        cycles.append(at_ms)
        # A partition is woken when the next job may leave; long periods need no ticks between.
        at_ms += rng.randint(1, max(waits_ms, 1)) if waits_ms <= 240 else waits_ms // 10 or 1
    left = backlog(rate, burst, cycles, set())
    assert sum(jobs for _, jobs in left) >= 0.99 * rate.count * span_ms / rate.period_ms


@settings(max_examples=40)
@given(
    rates,
    st.integers(1, 10),
    st.lists(
        st.tuples(st.integers(1, 3_000), st.sampled_from(["", "", "store", "changelog", "pause"])),
        min_size=5,
        max_size=25,
    ),
)
def test_bound_holds_in_the_driver(rate: Rate, burst: int, steps: list[tuple[int, str]]) -> None:
    """With stalls, restarts and pauses the tenant's real dispatches keep the window bound."""
    driver = Driver()
    settings_of = {"rate": str(rate), "burst": burst}
    driver.set_tenant("acme", **settings_of)
    for number in range(300):
        driver.submit("acme", f"{number}")
    for milliseconds, what in steps:
        if what == "pause":
            driver.set_tenant("acme", **settings_of, paused=True)
            driver.advance(milliseconds)
            driver.set_tenant("acme", **settings_of)
        elif what:
            driver.restart(from_changelog=what == "changelog")
        elif milliseconds % 2:
            driver.now_ms += milliseconds
        driver.advance(milliseconds // 2)
    times: dict[int, int] = {}
    for record in driver.read_egress("acme"):
        times[record.timestamp_ms] = times.get(record.timestamp_ms, 0) + 1
    check_windows(list(times.items()), rate, burst)
