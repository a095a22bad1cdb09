"""How fast jobs that wait on the ingress topic are accepted, and what pending jobs cost."""

import time
from typing import Final

from streamsched.bench.baseline import HOUR_MS, compared, run_baseline, warm_up
from streamsched.bench.cluster import bench_cluster
from streamsched.bench.load import Load, now_ms, produce, tenant_names
from streamsched.bench.machine import machine
from streamsched.bench.result import BenchResult, job_parameters
from streamsched.bench.scheduler import ACCEPTED, BLOCK_CACHE, PENDING, Scheduler
from streamsched.cli.errors import say
from streamsched.core.names import TopicNames
from streamsched.store.rocks_options import CACHE_BYTES

MEMORY_PENDING: Final = (100_000, 1_000_000)
SETTLE_SECONDS: Final = 5.0
_MIB: Final = 1024 * 1024


def bench_schedule(jobs: int, tenants: int, partitions: int) -> list[BenchResult]:
    """Accept `jobs` jobs that are due in an hour; start-up of the scheduler is not counted."""
    with bench_cluster() as cluster:
        warm_up(cluster, tenants, partitions)
        load = Load(jobs, tenants, partitions, now_ms() + HOUR_MS)
        before = run_baseline(cluster, "before", load, with_dispatch=False).ingest
        names = TopicNames("bench-schedule")
        cluster.make_topics(names, partitions, tenant_names(tenants, partitions))
        produce(cluster.bootstrap_servers, names.jobs, load)
        say(f"scheduler: {jobs} jobs to accept")
        with Scheduler(cluster.bootstrap_servers, names, cluster.folder) as scheduler:
            stretch = scheduler.measure(ACCEPTED, 0, jobs)
            scheduler.check_well()
            rss_mb = scheduler.rss_mb()
            say(f"scheduler: {stretch}")
        after = run_baseline(cluster, "after", load, with_dispatch=False).ingest
    return [compared("schedule", load, stretch, rss_mb, before, after)]


def bench_memory(tenants: int, partitions: int) -> list[BenchResult]:
    """Memory of the scheduler's process at each of `MEMORY_PENDING` pending jobs.

    Of the process that has just taken in the last of them, and of one that was started with them.
    """
    results = []
    with bench_cluster() as cluster:
        names = TopicNames("bench-memory")
        cluster.make_topics(names, partitions, tenant_names(tenants, partitions))
        held = 0
        for pending in MEMORY_PENDING:
            prefix, due_at_ms = f"to-{pending}-", now_ms() + HOUR_MS
            load = Load(pending - held, tenants, partitions, due_at_ms, id_prefix=prefix)
            say(f"scheduler: up to {pending} pending jobs")
            with Scheduler(cluster.bootstrap_servers, names, cluster.folder) as scheduler:
                produce(cluster.bootstrap_servers, names.jobs, load)
                scheduler.wait_count(PENDING, pending)
                results.append(_memory("memory: jobs taken in", scheduler, load, pending))
            say("scheduler: started again with them")
            with Scheduler(cluster.bootstrap_servers, names, cluster.folder) as scheduler:
                scheduler.wait_count(PENDING, pending)
                results.append(_memory("memory: jobs found", scheduler, load, pending))
            held = pending
    return results


def _memory(bench: str, scheduler: Scheduler, load: Load, pending: int) -> BenchResult:
    # What is still in flight when the last job is accepted is no cost of pending jobs.
    time.sleep(SETTLE_SECONDS)
    scheduler.check_well()
    return BenchResult(
        bench=bench,
        jobs=pending,
        tenants=load.tenants,
        scheduler_rss_mb=scheduler.rss_mb(),
        parameters=job_parameters(load.partitions)
        | {
            "block_cache_mb": scheduler.counter(BLOCK_CACHE) // _MIB,
            "block_cache_mb_max": CACHE_BYTES // _MIB,
            "settle_seconds": SETTLE_SECONDS,
        },
        machine=machine(),
    )
