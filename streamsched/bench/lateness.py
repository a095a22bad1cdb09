"""How late jobs are at their worker: many due together, and steadily; how soon one is accepted."""

from typing import Final

from confluent_kafka import Producer

from streamsched.bench.acknowledge import acknowledgement_ms, steady_producer
from streamsched.bench.baseline import HOUR_MS
from streamsched.bench.cluster import BenchCluster, bench_cluster
from streamsched.bench.dispatch import hold, start_with_topics_known
from streamsched.bench.errors import BenchError
from streamsched.bench.load import Load, now_ms, tenant_names
from streamsched.bench.machine import machine
from streamsched.bench.receiver import Received
from streamsched.bench.result import BenchResult, job_parameters, percentile
from streamsched.bench.scheduler import ACCEPTED, Scheduler
from streamsched.bench.steady import LEAD_MS, SteadyProducer, receiving
from streamsched.cli.errors import say
from streamsched.core.names import TopicNames

SPREAD_MS: Final = 1_000
STEADY_JOBS_PER_SECOND: Final = 2_000
STEADY_TENANTS: Final = 20
STEADY_SECONDS: Final = 20
STEADY_PREFIX: Final = "steady-"
ACK_JOBS_PER_SECOND: Final = 1_000
ACK_SECONDS: Final = 10
ACK_STRETCHES: Final = 7
"""Only the last one counts."""
RECEIVE_SECONDS_MAX: Final = 120.0


def bench_lateness(jobs: int, tenants: int, partitions: int) -> list[BenchResult]:
    """Acknowledgements; lateness of `jobs` due within a second, then of a steady 2,000 a second."""
    topics = tenant_names(tenants, partitions)
    steady_topics = tenant_names(STEADY_TENANTS, partitions)
    load = Load(jobs, tenants, partitions, 0, SPREAD_MS)
    with bench_cluster() as cluster:
        names = TopicNames("bench-lateness")
        cluster.make_topics(names, partitions, sorted({*topics, *steady_topics}))
        with Scheduler(cluster.bootstrap_servers, names, cluster.folder) as scheduler:
            warm = start_with_topics_known(cluster, scheduler, names, load)
            producer = steady_producer(cluster.bootstrap_servers, names.jobs)
            acks = _acknowledge(producer, scheduler, names, load, warm)
            egress = [names.egress(tenant) for tenant in topics]
            with receiving(cluster, egress, jobs, RECEIVE_SECONDS_MAX) as noted:
                hold(cluster, scheduler, names, load, warm + len(acks))
                received = noted()
            _check(received, jobs)
            rss_mb = scheduler.rss_mb()
            steady = _steady(cluster, names, steady_topics, partitions)
            scheduler.check_well()
        say("producer: the same with nobody who reads")
        baseline_acks = _produce(producer, names, load, ACK_STRETCHES)
    return [
        BenchResult(
            bench="lateness",
            jobs=jobs,
            tenants=tenants,
            lateness_ms_p50=received.lateness_ms_p50,
            lateness_ms_p99=received.lateness_ms_p99,
            lateness_ms_max=received.lateness_ms_max,
            ack_ms_p50=percentile(acks, 50),
            ack_ms_p99=percentile(acks, 99),
            baseline_ack_ms_p50=percentile(baseline_acks, 50),
            baseline_ack_ms_p99=percentile(baseline_acks, 99),
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
        ),
        BenchResult(
            bench="lateness: steady",
            jobs=steady.jobs,
            tenants=STEADY_TENANTS,
            lateness_ms_p50=steady.lateness_ms_p50,
            lateness_ms_p99=steady.lateness_ms_p99,
            lateness_ms_max=steady.lateness_ms_max,
            parameters=job_parameters(partitions)
            | {"due_jobs_per_second": STEADY_JOBS_PER_SECOND, "seconds": STEADY_SECONDS},
            machine=machine(),
        ),
    ]


def _steady(
    cluster: BenchCluster, names: TopicNames, topics: list[str], partitions: int
) -> Received:
    """What a reader notes of jobs that fall due all the time."""
    say(f"{STEADY_JOBS_PER_SECOND} jobs/s of {STEADY_TENANTS} tenants for {STEADY_SECONDS} s")
    jobs = STEADY_JOBS_PER_SECOND * STEADY_SECONDS
    egress = [names.egress(tenant) for tenant in topics]
    with receiving(cluster, egress, jobs, RECEIVE_SECONDS_MAX, id_prefix=STEADY_PREFIX) as noted:
        begin_ms, spread_ms = now_ms() + LEAD_MS, STEADY_SECONDS * 1_000
        load = Load(jobs, STEADY_TENANTS, partitions, begin_ms, spread_ms, STEADY_PREFIX)
        with SteadyProducer(cluster.bootstrap_servers, names.jobs, load):
            received = noted()
    _check(received, jobs)
    return received


def _acknowledge(
    producer: Producer, scheduler: Scheduler, names: TopicNames, load: Load, warm: int
) -> list[float]:
    """The last stretch's acknowledgements: before that a cold broker still compiles its code."""
    count = ACK_JOBS_PER_SECOND * ACK_SECONDS
    acks: list[float] = []
    for stretch in range(ACK_STRETCHES):
        say(f"producer: {ACK_JOBS_PER_SECOND} jobs/s for {ACK_SECONDS} s, {stretch + 1}")
        acks = _produce(producer, names, load, stretch)
        scheduler.wait_count(ACCEPTED, warm + (stretch + 1) * count)
    return acks


def _produce(producer: Producer, names: TopicNames, load: Load, stretch: int) -> list[float]:
    """One stretch of jobs that fall due much later."""
    later = Load(
        ACK_JOBS_PER_SECOND * ACK_SECONDS,
        load.tenants,
        load.partitions,
        now_ms() + HOUR_MS,
        id_prefix=f"later-{stretch}-",
    )
    return acknowledgement_ms(producer, names.jobs, later, ACK_JOBS_PER_SECOND)


def _check(received: Received, jobs: int) -> None:
    if received.jobs != jobs or received.records != jobs:
        raise BenchError(
            f"{jobs} jobs went in, but {received.records} records of {received.jobs} jobs came out"
        )
    if received.early:
        raise BenchError(f"{received.early} jobs came before they were due")
