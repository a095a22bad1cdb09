"""Running the baseline beside a benchmark: same broker, same jobs, moments before and after."""

import dataclasses
import shutil
import time
from dataclasses import dataclass
from typing import Final

import msgspec
import orjson

from streamsched.bench import bare
from streamsched.bench.baseline_process import Order
from streamsched.bench.child import Child
from streamsched.bench.cluster import BenchCluster, bench_cluster
from streamsched.bench.load import Load, produce, tenant_names
from streamsched.bench.machine import machine
from streamsched.bench.result import BenchResult, job_parameters, ratio
from streamsched.bench.scheduler import Stretch
from streamsched.cli.errors import say
from streamsched.core.names import TopicNames

WARM_UP_JOBS: Final = 40_000
SECONDS_MAX: Final = 240.0
HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Figures:
    """One half of the baseline as it measured itself."""

    jobs: int
    jobs_per_second: float
    cpu_us_per_job: float


def better(before: Figures, after: Figures) -> Figures:
    """The better of two runs, figure by figure.

    A broker that still warms up, or a moment in which the machine was busy elsewhere, must not
    make the scheduler look good.
    """
    return Figures(
        before.jobs,
        max(before.jobs_per_second, after.jobs_per_second),
        min(before.cpu_us_per_job, after.cpu_us_per_job),
    )


@dataclass(frozen=True, slots=True)
class Baseline:
    """Both halves; `dispatch` only where it was asked for."""

    ingest: Figures
    dispatch: Figures | None = None


def run_baseline(
    cluster: BenchCluster,
    name: str,
    load: Load,
    *,
    with_dispatch: bool,
    with_headers: bool = True,
) -> Baseline:
    """Do the work of `load` with bare clients on topics of its own, and check what came out.

    Raises `BenchError`.
    """
    names = TopicNames(f"baseline-{name}")
    tenants = tenant_names(load.tenants, load.partitions)
    folder = cluster.folder / names.app_id
    say(f"baseline {name}: {load.jobs} jobs, {load.tenants} tenants")
    cluster.make_topics(names, load.partitions, tenants)
    produce(cluster.bootstrap_servers, names.jobs, load)
    order = Order(
        bootstrap_servers=cluster.bootstrap_servers,
        app_id=names.app_id,
        partitions=load.partitions,
        jobs=load.jobs,
        tenants=load.tenants,
        folder=str(folder),
        with_dispatch=with_dispatch,
        with_headers=with_headers,
    )
    argument = orjson.dumps(dataclasses.asdict(order)).decode()
    module = "streamsched.bench.baseline_process"
    with Child(names.app_id, module, [argument], cluster.folder) as child:
        printed = child.wait_end(SECONDS_MAX)
    baseline = msgspec.json.decode(printed, type=Baseline)
    if with_dispatch:
        cluster.check_dispatched(names, tenants, load.jobs)
    for half, figures in (("in", baseline.ingest), ("out", baseline.dispatch)):
        if figures is not None:
            say(
                f"baseline {name}: {figures.jobs_per_second:,.0f} jobs/s {half}, "
                f"{figures.cpu_us_per_job:.1f} us of CPU a job"
            )
    cluster.drop_topics(names)
    shutil.rmtree(folder, ignore_errors=True)
    return baseline


def warm_up(cluster: BenchCluster, tenants: int, partitions: int) -> None:
    """Let the broker compile its code before anything is measured: a cold one is far slower."""
    load = Load(WARM_UP_JOBS, tenants, partitions, _in_an_hour())
    run_baseline(cluster, "warm-up", load, with_dispatch=True)


def compared(
    bench: str, load: Load, stretch: Stretch, rss_mb: float, before: Figures, after: Figures
) -> BenchResult:
    """What the scheduler reached, beside the better of the baseline's runs before and after it."""
    base = better(before, after)
    return BenchResult(
        bench=bench,
        jobs=load.jobs,
        tenants=load.tenants,
        jobs_per_second=stretch.jobs_per_second,
        baseline_jobs_per_second=base.jobs_per_second,
        ratio_to_baseline=ratio(stretch.jobs_per_second, base.jobs_per_second),
        scheduler_cpu_us_per_job=stretch.cpu_us_per_job,
        baseline_cpu_us_per_job=base.cpu_us_per_job,
        cpu_ratio_to_baseline=ratio(stretch.cpu_us_per_job, base.cpu_us_per_job),
        scheduler_rss_mb=rss_mb,
        parameters=job_parameters(load.partitions)
        | {
            "baseline": bare.parameters(),
            "baseline_runs_jobs_per_second": [before.jobs_per_second, after.jobs_per_second],
        },
        machine=machine(),
    )


def bench_baseline(jobs: int, tenants: int, partitions: int) -> list[BenchResult]:
    """Both halves of the baseline, and the second once more without the six headers."""
    with bench_cluster() as cluster:
        warm_up(cluster, tenants, partitions)
        load = Load(jobs, tenants, partitions, _in_an_hour())
        full = run_baseline(cluster, "full", load, with_dispatch=True)
        plain = run_baseline(
            cluster, "without-headers", load, with_dispatch=True, with_headers=False
        )
    assert full.dispatch is not None
    assert plain.dispatch is not None
    halves = {
        "baseline schedule": full.ingest,
        "baseline dispatch": full.dispatch,
        "baseline dispatch without headers": plain.dispatch,
    }
    return [
        BenchResult(
            bench=bench,
            jobs=jobs,
            tenants=tenants,
            baseline_jobs_per_second=figures.jobs_per_second,
            baseline_cpu_us_per_job=figures.cpu_us_per_job,
            parameters=job_parameters(partitions) | {"baseline": bare.parameters()},
            machine=machine(),
        )
        for bench, figures in halves.items()
    ]


def _in_an_hour() -> int:
    return time.time_ns() // 1_000_000 + HOUR_MS
