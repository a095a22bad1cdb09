"""The limiter's promises (design 2.5) as formulas, on a simulated clock."""

import pytest

from streamsched.core import limiter
from streamsched.core.rate import Rate

NOW = 1_800_000_000_000
RATES = [
    (Rate(1, 2_000), 1),
    (Rate(10, 1_000), 1),
    (Rate(40, 1_000), 1),
    (Rate(40, 1_000), 25),
    (Rate(1_500, 1_000), 1),
    (Rate(1, 333), 1),
    (Rate(1, 333), 4),
    (Rate(1, 60_000), 1),
    (Rate(100_000, 86_400_000), 3),
]


def drain(rate: Rate, burst: int, at: int, cycles: list[int]) -> list[tuple[int, int]]:
    """Serve an endless backlog at the moments of `cycles`; returns (moment, jobs)."""
    left: list[tuple[int, int]] = []
    waiting = False
    for now_ms in cycles:
        allowed = limiter.allowance(rate, burst, at, now_ms, waiting=waiting)
        waiting = True
        if allowed.jobs:
            at = limiter.spend(rate, allowed.at_ticks, allowed.jobs)
            left.append((now_ms, allowed.jobs))
    return left


def most_in_window(left: list[tuple[int, int]], length_ms: int) -> int:
    """The most jobs in any half-open window of that length."""
    most = total = first = 0
    for now_ms, jobs in left:
        total += jobs
        while left[first][0] <= now_ms - length_ms:
            total -= left[first][1]
            first += 1
        most = max(most, total)
    return most


@pytest.mark.parametrize(
    ("rate", "burst", "expected"),
    [
        (Rate(1, 333), 1, 1),
        (Rate(10, 1_000), 1, 3),
        (Rate(40, 1_000), 1, 10),
        (Rate(1_500, 1_000), 1, 375),
        (Rate(1, 60_000), 1, 1),
        (Rate(10, 1_000), 20, 20),
    ],
)
def test_effective_burst(rate: Rate, burst: int, expected: int) -> None:
    """The figures of the contract."""
    assert limiter.effective_burst(rate, burst) == expected


@pytest.mark.parametrize(("rate", "burst"), RATES)
@pytest.mark.parametrize("step_ms", [1, 20, 80, 240, 700])
def test_window_bound_and_throughput(rate: Rate, burst: int, step_ms: int) -> None:
    """No window of k periods holds more than COUNT*k + effective burst; 99 % is reached."""
    span_ms = max(60_000, 100 * rate.period_ms // rate.count)
    step_ms = max(step_ms, span_ms // 60_000)
    cycles = list(range(NOW, NOW + span_ms, step_ms))
    left = drain(rate, burst, limiter.full(rate, burst, NOW), cycles)
    extra = limiter.effective_burst(rate, burst)
    for k in (1, 2, 7):
        assert most_in_window(left, k * rate.period_ms) <= rate.count * k + extra
    catch_up_ms = max(250, (burst - 1) * rate.period_ms // rate.count)
    if step_ms <= catch_up_ms or step_ms <= rate.period_ms // rate.count // 100:
        assert sum(jobs for _, jobs in left) >= 0.99 * rate.count * span_ms / rate.period_ms


@pytest.mark.parametrize(("rate", "burst"), RATES)
def test_after_idle_a_burst_leaves(rate: Rate, burst: int) -> None:
    """However long nobody waited, exactly `burst` leave at once, then one every T."""
    at = limiter.full(rate, burst, NOW)
    for idle_ms in (0, 10**6, 10**9):
        allowed = limiter.allowance(rate, burst, at, NOW + idle_ms, waiting=False)
        assert allowed.jobs == burst
    at = limiter.spend(rate, allowed.at_ticks, burst)
    then = limiter.next_ms(rate, at)
    assert then == NOW + idle_ms - (-rate.period_ms // rate.count)
    assert limiter.allowance(rate, burst, at, then - 1, waiting=False).jobs == 0
    assert limiter.allowance(rate, burst, at, then, waiting=False).jobs >= 1


def test_catch_up_only_while_waiting() -> None:
    """A late cycle makes up for at most 250 ms, and only for jobs that waited."""
    rate = Rate(100, 1_000)
    at = NOW * rate.count
    assert limiter.allowance(rate, 1, at, NOW + 200, waiting=True).jobs == 21
    assert limiter.allowance(rate, 1, at, NOW + 90_000, waiting=True).jobs == 26
    assert limiter.allowance(rate, 1, at, NOW + 90_000, waiting=False).jobs == 1


def test_no_rounding_over_a_day() -> None:
    """7 in 333 ms over a day is what it is, to the job."""
    rate = Rate(7, 333)
    cycles = list(range(NOW, NOW + 86_400_000, 237))
    left = drain(rate, 1, limiter.full(rate, 1, NOW), cycles)
    exact = (cycles[-1] - NOW) * rate.count // rate.period_ms + 1
    assert sum(jobs for _, jobs in left) == exact


@pytest.mark.parametrize(
    ("old", "level", "new", "expected"),
    [
        ((Rate(10, 1_000), 5), 5, (Rate(1, 60_000), 3), 3),
        ((Rate(10, 1_000), 5), 2, (Rate(1, 60_000), 3), 2),
        ((Rate(10, 1_000), 1), 1, (Rate(10, 1_000), 9), 1),
        ((Rate(10, 1_000), 5), 0, (Rate(1_000, 1_000), 5), 0),
        (None, 0, (Rate(10, 1_000), 5), 0),
    ],
)
def test_change_keeps_the_level(
    old: tuple[Rate, int] | None, level: int, new: tuple[Rate, int], expected: int
) -> None:
    """The level in jobs is kept, capped at the new burst; from unlimited it is 0."""
    at = 0
    if old is not None:
        at = NOW * old[0].count - (level - 1) * old[0].period_ms
        assert limiter.allowance(*old, at, NOW, waiting=False).jobs == level
    at = limiter.change(old, at, new, NOW)
    assert limiter.allowance(*new, at, NOW, waiting=False).jobs == expected
    if not expected:
        assert limiter.next_ms(new[0], at) == NOW - (-new[0].period_ms // new[0].count)


def test_change_rounds_the_level_down() -> None:
    """Half a job is no job, but half of the wait for it."""
    old = (Rate(1, 1_000), 5)
    at = NOW - 1_999
    assert limiter.allowance(*old, at, NOW, waiting=False).jobs == 2
    new = (Rate(1, 10_000), 5)
    at = limiter.change(old, at, new, NOW)
    assert limiter.allowance(*new, at, NOW, waiting=False) == limiter.Allowance(2, NOW - 19_990)
    assert limiter.change(new, at, old, NOW) == NOW - 1_999


@pytest.mark.parametrize(
    ("one", "other", "every_ms"),
    [
        ((Rate(60, 3_600_000), 1), (Rate(61, 3_600_000), 1), 45_000),
        ((Rate(2, 1_000), 1), (Rate(3, 1_000), 1), 300),
        ((Rate(2, 1_000), 1), (Rate(2, 1_000), 2), 300),
        ((Rate(1, 1_000), 1), (Rate(1, 7_000), 1), 100),
    ],
)
def test_changes_more_often_than_the_period_do_not_starve_a_tenant(
    one: tuple[Rate, int], other: tuple[Rate, int], every_ms: int
) -> None:
    """Each stretch adds its own share of the next job."""
    pace, then = one, other
    at = limiter.full(*pace, NOW)
    left = 0
    changes = 400
    for number in range(changes):
        began = NOW + number * every_ms
        for now in range(began, began + every_ms, 50):
            allowed = limiter.allowance(*pace, at, now, waiting=True)
            left += allowed.jobs
            at = limiter.spend(pace[0], allowed.at_ticks, allowed.jobs)
        at = limiter.change(pace, at, then, began + every_ms)
        pace, then = then, pace
    share = [every_ms * changes / 2 * rate.count / rate.period_ms for rate, _ in (one, other)]
    assert sum(share) * 0.98 - 1 <= left <= sum(share) + max(one[1], other[1]) + 1
