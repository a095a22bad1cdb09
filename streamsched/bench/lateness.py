"""How late jobs are at their worker when many fall due together, and how soon one is accepted."""

import time
from dataclasses import asdict
from typing import Final

import msgspec
import orjson

from streamsched.bench.acknowledge import acknowledgement_ms
from streamsched.bench.baseline import HOUR_MS
from streamsched.bench.child import Child
from streamsched.bench.cluster import BenchCluster, bench_cluster
from streamsched.bench.dispatch import hold, start_with_topics_known
from streamsched.bench.errors import BenchError
from streamsched.bench.load import Load, tenant_names
from streamsched.bench.machine import machine
from streamsched.bench.receiver import READY, Order, Received
from streamsched.bench.result import BenchResult, job_parameters, percentile
from streamsched.bench.scheduler import ACCEPTED, Scheduler
from streamsched.cli.errors import say
from streamsched.core.names import TopicNames

SPREAD_MS: Final = 1_000
ACK_JOBS_PER_SECOND: Final = 1_000
ACK_SECONDS: Final = 10
ACK_STRETCHES: Final = 3
"""Only the last one counts."""
RECEIVER_READY_SECONDS_MAX: Final = 30.0
RECEIVE_SECONDS_MAX: Final = 120.0


def bench_lateness(jobs: int, tenants: int, partitions: int) -> list[BenchResult]:
    """Lateness of `jobs` jobs due within one second; before that, acknowledgements at 1,000/s."""
    topics = tenant_names(tenants, partitions)
    load = Load(jobs, tenants, partitions, 0, SPREAD_MS)
    with bench_cluster() as cluster:
        names = TopicNames("bench-lateness")
        cluster.make_topics(names, partitions, topics)
        with Scheduler(cluster.bootstrap_servers, names, cluster.folder) as scheduler:
            warm = start_with_topics_known(cluster, scheduler, names, load)
            acks = _acknowledge(cluster, scheduler, names, load, warm)
            order = Order(
                cluster.bootstrap_servers,
                [names.egress(tenant) for tenant in topics],
                jobs,
                RECEIVE_SECONDS_MAX,
            )
            argument = orjson.dumps(asdict(order)).decode()
            with Child("receiver", "streamsched.bench.receiver", [argument], cluster.folder) as own:
                own.wait_until(
                    lambda: own.output().startswith(READY), RECEIVER_READY_SECONDS_MAX, READY
                )
                hold(cluster, scheduler, names, load, warm + len(acks))
                printed = own.wait_end(RECEIVE_SECONDS_MAX + RECEIVER_READY_SECONDS_MAX)
            scheduler.check_well()
            rss_mb = scheduler.rss_mb()
    received = msgspec.json.decode(printed.removeprefix(READY), type=Received)
    _check(received, jobs)
    return [
        BenchResult(
            bench="lateness",
            jobs=jobs,
            tenants=tenants,
            lateness_ms_p50=received.lateness_ms_p50,
            lateness_ms_p99=received.lateness_ms_p99,
            lateness_ms_max=received.lateness_ms_max,
            ack_ms_p99=percentile(acks, 99),
            scheduler_rss_mb=rss_mb,
            parameters=job_parameters(partitions)
            | {
                "due_within_ms": SPREAD_MS,
                "ack_jobs_per_second": ACK_JOBS_PER_SECOND,
                "ack_seconds": ACK_SECONDS,
                "ack_warm_up_seconds": ACK_SECONDS * (ACK_STRETCHES - 1),
                "ack_linger_ms": 0,
            },
            machine=machine(),
        )
    ]


def _acknowledge(
    cluster: BenchCluster, scheduler: Scheduler, names: TopicNames, load: Load, warm: int
) -> list[float]:
    """The last stretch's acknowledgements: before that a cold broker still compiles its code."""
    count = ACK_JOBS_PER_SECOND * ACK_SECONDS
    acks: list[float] = []
    for stretch in range(ACK_STRETCHES):
        say(f"producer: {ACK_JOBS_PER_SECOND} jobs/s for {ACK_SECONDS} s, {stretch + 1}")
        later = Load(
            count,
            load.tenants,
            load.partitions,
            time.time_ns() // 1_000_000 + HOUR_MS,
            id_prefix=f"later-{stretch}-",
        )
        acks = acknowledgement_ms(cluster.bootstrap_servers, names.jobs, later, ACK_JOBS_PER_SECOND)
        scheduler.wait_count(ACCEPTED, warm + (stretch + 1) * count)
    return acks


def _check(received: Received, jobs: int) -> None:
    if received.jobs != jobs or received.records != jobs:
        raise BenchError(
            f"{jobs} jobs went in, but {received.records} records of {received.jobs} jobs came out"
        )
    if received.early:
        raise BenchError(f"{received.early} jobs came before they were due")
