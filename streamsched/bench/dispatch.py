"""How fast a backlog leaves that falls due at one moment, when nothing else is left to do."""

import time
from typing import Final

from streamsched.bench.baseline import HOUR_MS, compared, run_baseline, warm_up
from streamsched.bench.cluster import BenchCluster, bench_cluster
from streamsched.bench.errors import BenchError
from streamsched.bench.load import Load, now_ms, produce, tenant_names
from streamsched.bench.result import BenchResult
from streamsched.bench.scheduler import ACCEPTED, DISPATCHED, Scheduler
from streamsched.cli.errors import say
from streamsched.core.names import TopicNames

LEAD_SECONDS_MIN: Final = 8.0
LEAD_JOBS_PER_SECOND: Final = 12_000
"""The due time leaves room to write and accept the jobs at this pace."""

QUIET_SECONDS: Final = 0.5
"""Before the due time, so that compactions of what was accepted can come to an end."""


def bench_dispatch(jobs: int, tenants: int, partitions: int) -> list[BenchResult]:
    """Dispatch `jobs` pending jobs that are all due at one moment, of unthrottled tenants."""
    with bench_cluster() as cluster:
        warm_up(cluster, tenants, partitions)
        load = Load(jobs, tenants, partitions, now_ms() + HOUR_MS)
        before = run_baseline(cluster, "before", load, with_dispatch=True).dispatch
        names = TopicNames("bench-dispatch")
        cluster.make_topics(names, partitions, tenant_names(tenants, partitions))
        with Scheduler(cluster.bootstrap_servers, names, cluster.folder) as scheduler:
            warm = start_with_topics_known(cluster, scheduler, names, load)
            hold(cluster, scheduler, names, load, warm)
            say(f"scheduler: {jobs} jobs to dispatch")
            stretch = scheduler.measure(DISPATCHED, warm, warm + jobs)
            scheduler.check_well()
            rss_mb = scheduler.rss_mb()
            say(f"scheduler: {stretch}")
        cluster.check_dispatched(names, tenant_names(tenants, partitions), jobs)
        after = run_baseline(cluster, "after", load, with_dispatch=True).dispatch
    assert before is not None
    assert after is not None
    return [compared("dispatch", load, stretch, rss_mb, before, after)]


def start_with_topics_known(
    cluster: BenchCluster, scheduler: Scheduler, names: TopicNames, load: Load
) -> int:
    """Wait until the scheduler works and knows every egress topic; jobs dispatched for that."""
    scheduler.wait_ready()
    warm = load.warm_up(now_ms())
    produce(cluster.bootstrap_servers, names.jobs, warm)
    scheduler.wait_count(DISPATCHED, warm.jobs)
    return warm.jobs


def hold(
    cluster: BenchCluster, scheduler: Scheduler, names: TopicNames, load: Load, accepted: int
) -> None:
    """Let the scheduler accept `load`, with a due time soon after; return once it is near.

    `accepted` jobs were accepted before. Raises `BenchError` where they fall due too early.
    """
    lead_ms = int((LEAD_SECONDS_MIN + load.jobs / LEAD_JOBS_PER_SECOND) * 1000)
    held = Load(load.jobs, load.tenants, load.partitions, now_ms() + lead_ms, load.spread_ms)
    say(f"scheduler: {load.jobs} jobs to hold, due in {lead_ms / 1000:.0f} s")
    produce(cluster.bootstrap_servers, names.jobs, held)
    scheduler.wait_count(ACCEPTED, accepted + load.jobs)
    rest_seconds = (held.due_at_ms - now_ms()) / 1000 - QUIET_SECONDS
    if rest_seconds < 0:
        raise BenchError(
            f"the jobs fell due before all {load.jobs} were accepted: the machine is too busy to "
            "measure on, or ask for fewer jobs"
        )
    time.sleep(rest_seconds)
