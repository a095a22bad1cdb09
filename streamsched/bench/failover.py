"""What readers notice when a scheduler is lost, stopped or started while jobs keep falling due.

Two schedulers share the partitions and are standbys of each other. Jobs fall due all the time; one
read_committed consumer notes how late each of them is.
"""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from streamsched.bench.cluster import BenchCluster, bench_cluster
from streamsched.bench.errors import BenchError
from streamsched.bench.load import Load, now_ms, tenant_names
from streamsched.bench.machine import machine
from streamsched.bench.result import BenchResult, job_parameters, percentile
from streamsched.bench.scheduler import DISPATCHED, Scheduler
from streamsched.bench.steady import LEAD_MS, Event, SteadyProducer, receiving
from streamsched.cli.errors import say
from streamsched.core.names import TopicNames

JOBS_PER_SECOND: Final = 2_000
LOAD_SECONDS: Final = 200
QUIET_SECONDS: Final = 10.0
"""After an event that takes no partition from anybody, and before the first."""

SETTLE_SECONDS: Final = 25.0
"""After an event that does; the readers' view of it has to fit in here."""

CAUGHT_MS: Final = 500
"""What fell due so shortly before an event belongs to it."""

NORMAL_MS: Final = 1_000.0


class Pair:
    """Two schedulers of one installation; a context manager that ends both."""

    def __init__(self, cluster: BenchCluster, names: TopicNames) -> None:
        """Starts both."""
        self._cluster = cluster
        self._names = names
        self._members = {name: self._started(name) for name in ("-a", "-b")}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for member in self._members.values():
            member.stop()

    def wait_ready(self) -> None:
        """Wait until both work on partitions of their own."""
        for member in self._members.values():
            member.wait_ready()

    def dispatched(self) -> int:
        """What both have counted."""
        return sum(member.counter(DISPATCHED) for member in self._members.values())

    def kill(self, name: str) -> None:
        """Kill -9."""
        self._members[name].kill()

    def terminate(self, name: str) -> None:
        """SIGTERM, until it has ended."""
        self._members[name].terminate()

    def start(self, name: str) -> None:
        """Start one that was ended, with the folder that it had, and wait until it works."""
        self._members[name] = self._started(name)
        self._members[name].wait_ready()

    def _started(self, name: str) -> Scheduler:
        kafka = self._cluster.bootstrap_servers
        return Scheduler(kafka, self._names, self._cluster.folder, log_level="info", member=name)


def bench_failover(tenants: int, partitions: int) -> list[BenchResult]:
    """Lateness around each event, under `JOBS_PER_SECOND` jobs a second of unthrottled tenants."""
    jobs = LOAD_SECONDS * JOBS_PER_SECOND
    topics = tenant_names(tenants, partitions)
    with bench_cluster() as cluster:
        names = TopicNames("bench-failover")
        cluster.make_topics(names, partitions, topics)
        with Pair(cluster, names) as pair:
            pair.wait_ready()
            egress = [names.egress(tenant) for tenant in topics]
            seconds_max = LOAD_SECONDS + 60.0
            with receiving(cluster, egress, jobs, seconds_max, with_each=True) as received:
                load = Load(jobs, tenants, partitions, now_ms() + LEAD_MS, LOAD_SECONDS * 1_000)
                with SteadyProducer(cluster.bootstrap_servers, names.jobs, load):
                    events = _play(pair, load)
                each = received().each
        cluster.check_dispatched(names, topics, jobs)
    return [_judged(event, each, tenants, partitions) for event in events]


def _play(pair: Pair, load: Load) -> list[Event]:
    """Do to the schedulers what may happen to them, one after the other."""
    events: list[Event] = []

    def do(name: str, seconds: float, *steps: Callable[[], None]) -> None:
        say(name)
        began_ms = now_ms()
        for step in steps:
            step()
        time.sleep(seconds)
        events.append(Event(name, began_ms, now_ms()))

    time.sleep(QUIET_SECONDS)
    do("nothing", QUIET_SECONDS)
    do("kill -9 of one of two", SETTLE_SECONDS, lambda: pair.kill("-b"))
    do("a second one started", QUIET_SECONDS, lambda: pair.start("-b"))
    do("SIGTERM to one of two", QUIET_SECONDS, lambda: pair.terminate("-b"))
    do("a second one started again", QUIET_SECONDS, lambda: pair.start("-b"))
    do(
        "rolling restart of both",
        QUIET_SECONDS,
        lambda: pair.terminate("-a"),
        lambda: pair.start("-a"),
        lambda: pair.terminate("-b"),
        lambda: pair.start("-b"),
    )
    if now_ms() > load.due_of(load.jobs - 1):
        raise BenchError("the load ended before the last event: the machine is too busy")
    return events


def _judged(
    event: Event, each: Sequence[tuple[int, float]], tenants: int, partitions: int
) -> BenchResult:
    """What became of the jobs that fell due around an event."""
    # A job that was due just before an event can be caught by it as well.
    first_ms, end_ms = event.at_ms - CAUGHT_MS, event.until_ms - CAUGHT_MS
    affected = [(due, late) for due, late in each if first_ms <= due < end_ms]
    late = sorted(value for _, value in affected)
    return BenchResult(
        bench=f"failover: {event.name}",
        jobs=len(late),
        tenants=tenants,
        lateness_ms_p50=percentile(late, 50),
        lateness_ms_p99=percentile(late, 99),
        lateness_ms_max=late[-1],
        back_to_normal_seconds=back_to_normal_seconds(event.at_ms, affected),
        parameters=job_parameters(partitions)
        | {"jobs_per_second": JOBS_PER_SECOND, "scheduler_processes": 2},
        machine=machine(),
    )


def back_to_normal_seconds(at_ms: int, affected: Sequence[tuple[int, float]]) -> float:
    """After how many whole seconds 99 % of the jobs of each second came within `NORMAL_MS`."""
    by_second: dict[int, list[float]] = {}
    for due_ms, late_ms in affected:
        by_second.setdefault((due_ms - at_ms) // 1_000, []).append(late_ms)
    late = [
        second for second, values in by_second.items() if percentile(sorted(values), 99) > NORMAL_MS
    ]
    return max(late) + 1.0 if late else 0.0
