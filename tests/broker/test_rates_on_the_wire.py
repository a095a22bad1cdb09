"""Rates as a reader of the egress topics sees them, over sliding windows of any whole length."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from streamsched.core.rate import parse_rate
from tests.broker.installation import Installation, installed
from tests.broker.reading import await_records, dispatched_at_ms, read_topics
from tests.broker.sending import tenants_of

BACKLOG_SECONDS = 16
STRETCH_SECONDS = 60
CATCH_UP_MS = 250
"""By so much sooner a job may follow one that was late."""


@dataclass(frozen=True)
class Pace:
    """A rate as design 2.5 bounds it. `burst` is the effective one."""

    rate: str
    count: int
    period_ms: int
    burst: int

    def nominal(self, milliseconds: float) -> float:
        """Jobs that the rate allows in a time."""
        return milliseconds * self.count / self.period_ms


PACES = [
    Pace("1/2s", 1, 2_000, 1),
    Pace("10/s", 10, 1_000, 3),
    Pace("40/s", 40, 1_000, 10),
    Pace("1500/s", 1_500, 1_000, 375),
]
# All on one partition, so that the fastest tenant's dispatches show every cycle of all of them.
TENANTS = dict(zip(tenants_of(0, 2, len(PACES), "paced"), PACES, strict=True))


@pytest.fixture(scope="module")
def it(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A scheduler with two partitions."""
    with installed(kafka, tmp_path_factory.mktemp("rates"), partitions=2) as running:
        yield running


def submit_backlog(it: Installation, label: str, seconds: int) -> None:
    """More for each tenant than it may send in `seconds`."""
    for tenant, pace in TENANTS.items():
        it.sender.settings(tenant, rate=pace.rate)
    it.sender.flush()
    for tenant, pace in TENANTS.items():
        it.process.await_tenant(tenant, rate=str(parse_rate(pace.rate)))
    for tenant, pace in TENANTS.items():
        for number in range(int(pace.nominal(seconds * 1_000)) + 2 * pace.burst):
            it.sender.job(tenant, f"{label}-{number}", value=b"x" * 20)
    it.sender.flush()


def times_of(it: Installation, tenant: str) -> list[int]:
    """When the tenant's jobs left, in order."""
    found = read_topics(it.kafka, [it.names.egress(tenant)])
    return sorted(dispatched_at_ms(message) for message in found)


def check_windows(times: list[int], pace: Pace) -> None:
    """No window [t, t + k periods) holds more than count * k + burst, for k up to 20."""
    for periods in range(1, 21):
        most = pace.count * periods + pace.burst
        length_ms = periods * pace.period_ms
        last = 0
        for first, start in enumerate(times):
            while last < len(times) and times[last] < start + length_ms:
                last += 1
            assert last - first <= most, (
                f"{pace.rate}: {last - first} where {most} may be, from {start} on in "
                f"{periods} periods"
            )


def stood_still_ms(cycles: list[int], start: int, end: int) -> int:
    """How long the machine kept the scheduler from working, beyond what a limiter catches up.

    `cycles` are the moments of all cycles; a tenant with jobs always at hand shows each of them.
    """
    moments = [start, *(at for at in cycles if start < at < end), end]
    return sum(max(0, after - before - CATCH_UP_MS) for before, after in pairwise(moments))


@pytest.mark.serial
@pytest.mark.timeout(360)
def test_rates_are_kept_and_reached(it: Installation) -> None:
    """Under a permanent backlog: never above the bound, and at least 99 % of nominal in 60 s."""
    submit_backlog(it, "reached", STRETCH_SECONDS + 8)
    slowest = next(iter(TENANTS))
    wanted = STRETCH_SECONDS // 2 + 2
    topics = [it.names.egress(slowest)]
    await_records(it.kafka, topics, wanted, seconds=240, tell=it.process.log)
    dispatches = {tenant: times_of(it, tenant) for tenant in TENANTS}
    cycles = sorted({at for times in dispatches.values() for at in times})
    for tenant, pace in TENANTS.items():
        times = dispatches[tenant]
        check_windows(times, pace)
        # What the tenant could send at once, before its backlog began, is no part of the rate.
        start = times[0] + 1_000
        end = start + STRETCH_SECONDS * 1_000
        still_ms = stood_still_ms(cycles, start, end)
        # The last job that a stretch can hold may fall just behind its end.
        count = sum(start <= at < end for at in times) + 1
        print(
            f"{pace.rate}: {count / pace.nominal(end - start):.2%} of nominal in "
            f"{STRETCH_SECONDS} s, of which the machine stood still for {still_ms} ms"
        )
        # A stretch that was mostly a standstill would show nothing.
        assert still_ms < STRETCH_SECONDS * 500
        assert count >= 0.99 * pace.nominal(end - start - still_ms)
    for at, after in pairwise(cycles):
        if after - at > CATCH_UP_MS:
            print(f"no cycle for {after - at} ms from {at} on")


@pytest.mark.timeout(240)
def test_rates_are_kept_through_restart_and_kill(kafka: str, tmp_path: Path) -> None:
    """The window bound holds across an orderly restart and kill -9, and nobody starts afresh."""
    with installed(kafka, tmp_path, partitions=2) as it:
        submit_backlog(it, "through", BACKLOG_SECONDS)
        # One job may leave, the next one an hour after it; and one that drained before.
        rates = {"hourly": "1/h", "drained": "1/h", "every-20-s": "1/20s"}
        for tenant, rate in rates.items():
            it.sender.settings(tenant, rate=rate)
        it.sender.flush()
        # A job that came before the rate would have been of an unlimited tenant, whose level at
        # the change is 0, and the first one would wait for an hour as well.
        for tenant, rate in rates.items():
            it.process.await_tenant(tenant, rate=rate)
            it.sender.job(tenant, "first")
        it.sender.job("every-20-s", "second")
        it.sender.job("hourly", "second")
        it.sender.flush()
        for tenant in ("hourly", "drained", "every-20-s"):
            it.dispatched(tenant, 1)
        assert it.process.terminate() == 0
        it.process.start()
        it.process.wait_ready()
        it.sender.job("drained", "second")
        it.sender.flush()
        await_served(it, "after-restart")
        it.process.kill()
        it.process.start()
        it.process.wait_ready()
        await_served(it, "after-kill")
        for tenant in ("hourly", "drained"):
            it.process.await_tenant(tenant, status="throttled", pending=1)
            assert len(it.dispatched(tenant, 1)) == 1
        first, second = (dispatched_at_ms(m) for m in it.dispatched("every-20-s", 2))
        print(f"1/20s: {second - first} ms from first to second")
        assert second - first >= 20_000 - CATCH_UP_MS
        for tenant, pace in TENANTS.items():
            check_windows(times_of(it, tenant), pace)


def await_served(it: Installation, label: str) -> None:
    """Wait until fresh jobs have left on both partitions: cycles run, and settings are read."""
    for partition in range(2):
        [tenant] = tenants_of(partition, 2, 1, label)
        it.sender.job(tenant, "a")
        it.sender.flush()
        it.dispatched(tenant, 1)


@pytest.mark.timeout(120)
def test_limiter_holds_across_a_drain(it: Installation) -> None:
    """A tenant that was drained does not begin again with a burst."""
    it.sender.settings("drain", rate="1/2s")
    it.sender.flush()
    it.process.await_tenant("drain", rate=str(parse_rate("1/2s")))
    for number in range(3):
        it.sender.job("drain", f"{number}")
        it.sender.flush()
        it.dispatched("drain", number + 1)
    times = times_of(it, "drain")
    print([after - before for before, after in pairwise(times)])
    assert times[1] - times[0] >= 2_000 - CATCH_UP_MS
    assert times[2] - times[0] >= 4_000 - CATCH_UP_MS
