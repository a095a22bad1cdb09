"""Hot standbys: a scheduler that follows takes over by the tail, and loses and repeats nothing."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streamsched.core.names import TopicNames
from streamsched.kafka import admin
from tests.broker.cluster import await_condition
from tests.broker.reading import job_id, read_topics
from tests.broker.scheduler_process import SchedulerProcess
from tests.broker.sending import Sender
from tests.broker.standing_by import (
    await_followed,
    followed,
    owned,
    recoveries,
    sharing,
    take_over,
    verbose,
)
from tests.connecting import client_options

PARTITIONS = 4
TENANTS = [f"tenant-{number}" for number in range(8)]
JOBS = 4_000
DELAY_MS = 45_000
TAIL_RECORDS_MAX = 200
"""Far below the records of a partition, and far above what is committed between two reads."""


@contextmanager
def pair(
    kafka: str, names: TopicNames, folder: Path
) -> Iterator[tuple[SchedulerProcess, SchedulerProcess]]:
    """Two schedulers that have shared the partitions between them, each the other's standby."""
    first = SchedulerProcess(kafka, names.app_id, folder / "a")
    processes = first, first.another(folder / "b")
    with sharing(processes, PARTITIONS):
        yield processes


@pytest.mark.timeout(240)
def test_takeover_by_a_standby_reads_the_tail_alone(
    kafka: str, app_id: str, tmp_path: Path
) -> None:
    """Kill -9 of one of two: the other reads next to nothing, and each job leaves exactly once."""
    names = TopicNames(app_id)
    admin.apply(client_options(kafka), names, PARTITIONS)
    sender = Sender(kafka, names)
    with pair(kafka, names, tmp_path) as (first, second):
        for number in range(JOBS):
            sender.job(TENANTS[number % len(TENANTS)], f"{number}", delay_ms=DELAY_MS)
        sender.flush()

        def accepted() -> bool:
            both = (first, second)
            return sum(p.metric("streamsched_jobs_accepted_total") for p in both) == JOBS

        await_condition("all jobs are accepted", accepted, 30, second.log)
        await_followed((first, second))
        assert second.metric("streamsched_standby_lag_records{") == 0
        take_over(first.kill, first, second, PARTITIONS, TAIL_RECORDS_MAX)
        second.await_metric("streamsched_jobs_pending{", JOBS)
        assert second.metric("streamsched_recovery_records{") <= TAIL_RECORDS_MAX * PARTITIONS
        topics = [names.egress(tenant) for tenant in TENANTS]
        await_condition(
            "every job has left",
            lambda: second.metric("streamsched_jobs_dispatched_total") >= JOBS,
            90,
            second.log,
        )
        counts = Counter(job_id(record) for record in read_topics(kafka, topics))
        assert counts == Counter(f"{number}" for number in range(JOBS))


@pytest.mark.timeout(240)
def test_followers_go_on_and_their_folders_stay(kafka: str, app_id: str, tmp_path: Path) -> None:
    """A standby outlives rebalances; where it is not wanted any more, its state waits on disk."""
    names = TopicNames(app_id)
    admin.apply(client_options(kafka), names, PARTITIONS)
    sender = Sender(kafka, names)
    for number in range(200):
        sender.job(TENANTS[number % len(TENANTS)], f"{number}", delay_ms=3_600_000)
    sender.flush()
    with pair(kafka, names, tmp_path) as (first, second):
        await_condition(
            "all jobs are pending",
            lambda: (
                first.metric("streamsched_jobs_pending{")
                + second.metric("streamsched_jobs_pending{")
                == 200
            ),
            60,
            second.log,
        )
        await_followed((first, second))
        # An orderly end: the other one takes all over, has nobody to follow, and says so.
        assert first.terminate() == 0
        await_condition(
            "the other one owns all",
            lambda: owned(second) == set(range(PARTITIONS)) and not followed(second),
            60,
            second.log,
        )
        second.await_metric("streamsched_jobs_pending{", 200)
        for number in range(PARTITIONS):
            assert (first.folder / "data" / app_id / f"{number}" / "CURRENT").exists()
        before = len(recoveries(first))
        first.start()
        await_condition(
            "both share again",
            lambda: first.is_ready() and second.is_ready() and len(owned(first)) == PARTITIONS // 2,
            60,
            first.log,
        )
        await_followed((first, second))
        lines = recoveries(first)[before:]
        print([(line["partition"], line["records"]) for line in lines])
        assert lines
        # What it had followed or owned before was on its disk, so there was no rebuild.
        assert all(line["records"] <= TAIL_RECORDS_MAX // 4 for line in lines)
        assert second.metric("streamsched_standby_failures_total") == 0


@pytest.mark.timeout(240)
def test_a_single_process_is_no_standby_of_itself(kafka: str, app_id: str, tmp_path: Path) -> None:
    """Alone, a scheduler owns everything and follows nothing, whatever is configured."""
    names = TopicNames(app_id)
    admin.apply(client_options(kafka), names, PARTITIONS)
    process = SchedulerProcess(kafka, app_id, tmp_path, standby_replicas="2")
    process.start()
    try:
        process.wait_ready()
        assert owned(process) == set(range(PARTITIONS))
        assert "standby" not in verbose(process)
    finally:
        process.kill()
