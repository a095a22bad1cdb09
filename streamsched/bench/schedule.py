"""How fast jobs that wait on the ingress topic are accepted, and what pending jobs cost."""

import time
from typing import Any, Final

from streamsched.bench.baseline import HOUR_MS, compared, run_baseline, warm_up
from streamsched.bench.cluster import BenchCluster, bench_cluster
from streamsched.bench.load import Load, produce, tenant_names
from streamsched.bench.machine import machine
from streamsched.bench.result import BenchResult, job_parameters
from streamsched.bench.scheduler import ACCEPTED, BLOCK_CACHE, Scheduler
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
        load = Load(jobs, tenants, partitions, _now_ms() + HOUR_MS)
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
    """Memory of the scheduler's process at each of `MEMORY_PENDING` pending jobs."""
    results = []
    with bench_cluster() as cluster:
        names = TopicNames("bench-memory")
        cluster.make_topics(names, partitions, tenant_names(tenants, partitions))
        with Scheduler(cluster.bootstrap_servers, names, cluster.folder) as scheduler:
            scheduler.wait_ready()
            held = 0
            for pending in MEMORY_PENDING:
                _hold_more(
                    cluster,
                    scheduler,
                    names,
                    Load(
                        pending - held,
                        tenants,
                        partitions,
                        _now_ms() + HOUR_MS,
                        id_prefix=f"to-{pending}-",
                    ),
                    pending,
                )
                held = pending
                results.append(
                    BenchResult(
                        bench="memory",
                        jobs=pending,
                        tenants=tenants,
                        scheduler_rss_mb=scheduler.rss_mb(),
                        parameters=job_parameters(partitions)
                        | _memory_parameters()
                        | {"block_cache_mb": scheduler.counter(BLOCK_CACHE) // _MIB},
                        machine=machine(),
                    )
                )
            scheduler.check_well()
    return results


def _hold_more(
    cluster: BenchCluster, scheduler: Scheduler, names: TopicNames, load: Load, pending: int
) -> None:
    say(f"scheduler: up to {pending} pending jobs")
    produce(cluster.bootstrap_servers, names.jobs, load)
    scheduler.wait_count(ACCEPTED, pending)
    # What is still in flight when the last job is accepted is no cost of pending jobs.
    time.sleep(SETTLE_SECONDS)


def _memory_parameters() -> dict[str, Any]:
    return {"block_cache_mb_max": CACHE_BYTES // _MIB, "settle_seconds": SETTLE_SECONDS}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
