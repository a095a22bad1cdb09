"""How long a scheduler with many pending jobs takes until it works again after kill -9."""

import dataclasses
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
import orjson

from streamsched.bench import bare_replay
from streamsched.bench.bare_replay import Order, Replayed
from streamsched.bench.baseline import HOUR_MS
from streamsched.bench.child import Child
from streamsched.bench.cluster import BenchCluster, bench_cluster
from streamsched.bench.errors import BenchError
from streamsched.bench.load import Load, produce, tenant_names
from streamsched.bench.machine import machine
from streamsched.bench.result import BenchResult, job_parameters, ratio
from streamsched.bench.scheduler import ACCEPTED, CANCELLED, PENDING, Scheduler, data_folder
from streamsched.cli.errors import say
from streamsched.core.names import TopicNames
from streamsched.kafka import admin

BASELINE_SECONDS_MAX: Final = 240.0
EMPTY_DISK: Final = "recovery from an empty disk"
LOCAL_STATE: Final = "recovery from local state"
CHURNED: Final = "recovery from a churned log"
COMPACTED: Final = "recovery from a churned log, compacted"
CHURN_JOBS_PER_ROUND: Final = 100_000
COMPACTION_SECONDS: Final = 45.0
"""Kafka's cleaner looks for work every 15 s."""

ASSIGNED: Final = "partitions assigned"
RECOVERED: Final = "partition recovered"


@dataclass(frozen=True, slots=True)
class Recovery:
    """One start of a scheduler, as seen from outside."""

    seconds: float
    start_to_ready_seconds: float
    records: int
    rss_mb: float


def bench_recovery(jobs: int, tenants: int, partitions: int) -> list[BenchResult]:
    """Kill a scheduler with `jobs` pending jobs; start it with its state, and without.

    The baseline runs right before and right after the second, on the same log.
    """
    with bench_cluster() as cluster:
        names = TopicNames("bench-recovery")
        cluster.make_topics(names, partitions, tenant_names(tenants, partitions))
        load = Load(jobs, tenants, partitions, time.time_ns() // 1_000_000 + HOUR_MS)
        produce(cluster.bootstrap_servers, names.jobs, load)
        say(f"scheduler: {jobs} jobs to accept")
        with _scheduler(cluster, names) as scheduler:
            scheduler.wait_count(ACCEPTED, jobs)
            scheduler.wait_count(PENDING, jobs)
            scheduler.check_well()
            scheduler.kill()
        local = recover(cluster, names, jobs)
        say(f"local state: {local.seconds:.2f} s, {local.records} records read")
        before = run_baseline(cluster, names, partitions)
        shutil.rmtree(data_folder(cluster.folder, names))
        empty = recover(cluster, names, jobs)
        say(f"empty disk: {empty.seconds:.2f} s, {empty.records} records read")
        after = run_baseline(cluster, names, partitions)
    about = job_parameters(partitions) | {
        "baseline": bare_replay.parameters(),
        "baseline_runs_records_per_second": [
            before.records_per_second,
            after.records_per_second,
        ],
    }
    return [
        compared(bench, jobs, tenants, recovery, before, after, about)
        for bench, recovery in ((EMPTY_DISK, empty), (LOCAL_STATE, local))
    ]


def bench_churn(pending: int, churn: int, tenants: int, partitions: int) -> list[BenchResult]:
    """Keep `pending` jobs while `churn` times as many come and are cancelled; recover from nothing.

    Once as the last cancel leaves the log, and once after Kafka has had time to compact it.
    """
    with bench_cluster() as cluster:
        names = TopicNames("bench-churn")
        cluster.make_topics(names, partitions, tenant_names(tenants, partitions))
        due_at_ms = time.time_ns() // 1_000_000 + HOUR_MS
        live = Load(pending, tenants, partitions, due_at_ms)
        produce(cluster.bootstrap_servers, names.jobs, live)
        with _scheduler(cluster, names) as scheduler:
            scheduler.wait_count(ACCEPTED, pending)
            gone = 0
            for number, jobs in enumerate(_rounds(pending * churn)):
                load = Load(jobs, tenants, partitions, due_at_ms, id_prefix=f"gone-{number}-")
                produce(cluster.bootstrap_servers, names.jobs, load)
                scheduler.wait_count(ACCEPTED, pending + gone + jobs)
                produce(cluster.bootstrap_servers, names.jobs, load, cancel=True)
                gone += jobs
                scheduler.wait_count(CANCELLED, gone)
                say(f"scheduler: {gone} jobs came and went")
            scheduler.wait_count(PENDING, pending)
            scheduler.check_well()
            scheduler.kill()
        written = cluster.end_offsets(names.changelog, partitions)
        results = [
            _recovered_from_log(cluster, names, live, CHURNED, churn, written),
        ]
        say(f"Kafka: {COMPACTION_SECONDS:.0f} s to compact the log")
        time.sleep(COMPACTION_SECONDS)
        results.append(_recovered_from_log(cluster, names, live, COMPACTED, churn, written))
    return results


def _rounds(jobs: int) -> Iterator[int]:
    """`jobs` in parts of which none is too large to be pending beside the others."""
    while jobs > 0:
        yield min(jobs, CHURN_JOBS_PER_ROUND)
        jobs -= CHURN_JOBS_PER_ROUND


def _recovered_from_log(
    cluster: BenchCluster, names: TopicNames, live: Load, bench: str, churn: int, written: int
) -> BenchResult:
    before = run_baseline(cluster, names, live.partitions)
    shutil.rmtree(data_folder(cluster.folder, names))
    recovery = recover(cluster, names, live.jobs)
    after = run_baseline(cluster, names, live.partitions)
    say(f"{bench}: {recovery.seconds:.2f} s, {recovery.records} records left of {written}")
    about = job_parameters(live.partitions) | {
        "baseline": bare_replay.parameters(),
        "churn": churn,
        "offsets_written": written,
        "records_left": after.records,
        "tombstones_left": after.tombstones,
        "compaction_seconds": COMPACTION_SECONDS,
        "changelog": dict(admin.CHANGELOG_CONFIGS),
    }
    return compared(bench, live.jobs, live.tenants, recovery, before, after, about)


def compared(
    bench: str,
    pending: int,
    tenants: int,
    recovery: Recovery,
    before: Replayed,
    after: Replayed,
    about: dict[str, Any],
) -> BenchResult:
    """What a recovery reached, beside the better of the baseline's runs."""
    base = max(before.records_per_second, after.records_per_second)
    rate = max(pending, recovery.records) / recovery.seconds
    return BenchResult(
        bench=bench,
        jobs=pending,
        tenants=tenants,
        pending=pending,
        seconds=recovery.seconds,
        start_to_ready_seconds=recovery.start_to_ready_seconds,
        records_per_second=rate,
        records_replayed=recovery.records,
        baseline_records_per_second=base,
        ratio_to_baseline=ratio(rate, base),
        scheduler_rss_mb=recovery.rss_mb,
        parameters=about,
        machine=machine(),
    )


def recover(cluster: BenchCluster, names: TopicNames, pending: int) -> Recovery:
    """Start a scheduler, and kill it once it is ready and shows `pending` jobs.

    The clock of `seconds` starts with the scheduler's own log line that it was given partitions,
    which comes right after it began to fence them, and stops when `/readyz` says so.
    """
    began = time.monotonic()
    with _scheduler(cluster, names) as scheduler:
        scheduler.wait_ready()
        ready_at = time.time()
        start_to_ready_seconds = time.monotonic() - began
        lines = [_decoded(line) for line in scheduler.log().splitlines()]
        assigned = [line for line in lines if line.get("event") == ASSIGNED]
        if len(assigned) != 1:
            raise BenchError(f"the group rebalanced {len(assigned)} times while it was measured")
        began_at = datetime.fromisoformat(assigned[0]["timestamp"]).timestamp()
        records = sum(line["records"] for line in lines if line.get("event") == RECOVERED)
        rss_mb = scheduler.rss_mb()
        scheduler.wait_count(PENDING, pending)
        found = scheduler.counter(PENDING)
        if found != pending:
            raise BenchError(f"{pending} jobs were pending before the kill, and {found} after it")
        scheduler.kill()
    return Recovery(ready_at - began_at, start_to_ready_seconds, records, rss_mb)


def run_baseline(cluster: BenchCluster, names: TopicNames, partitions: int) -> Replayed:
    """Copy the changelog with bare clients. Raises `BenchError`."""
    folder = cluster.folder / "copy"
    order = Order(cluster.bootstrap_servers, names.changelog, partitions, str(folder))
    argument = orjson.dumps(dataclasses.asdict(order)).decode()
    module = "streamsched.bench.bare_replay"
    with Child("baseline", module, [argument], cluster.folder) as child:
        replayed = msgspec.json.decode(child.wait_end(BASELINE_SECONDS_MAX), type=Replayed)
    shutil.rmtree(folder)
    say(f"baseline: {replayed.records} records, {replayed.records_per_second:,.0f} records/s")
    return replayed


def _scheduler(cluster: BenchCluster, names: TopicNames) -> Scheduler:
    return Scheduler(cluster.bootstrap_servers, names, cluster.folder, log_level="info")


def _decoded(line: str) -> dict[str, Any]:
    """A line of the log; empty for what a library printed past it."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
