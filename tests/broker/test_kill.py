"""The central promise: exactly once through kill -9, seen by a reader of the topics alone."""

import contextlib
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from streamsched.core.names import TopicNames
from streamsched.kafka import admin
from tests.broker.cluster import await_condition
from tests.broker.reading import await_records, header, read_topics
from tests.broker.scheduler_process import SchedulerProcess, running
from tests.connecting import client_options

JOBS = 20_000
TENANTS = [f"tenant-{i}" for i in range(8)]
SEEDS = 20
SEEDS_PER_TEST = 10
KILLS_AT_A_TIME = 2


def submit(kafka: str, names: TopicNames, count: int, name: str = "job") -> set[str]:
    """Produce jobs that are due at once, of the tenants in turn; returns their ids."""
    failures: list[object] = []
    producer = Producer(
        {
            **client_options(kafka),
            "partitioner": "murmur2_random",
            "on_delivery": lambda error, _: failures.append(error) if error else None,
        }
    )
    for i in range(count):
        headers = [("streamsched-id", f"{name}-{i}".encode()), ("streamsched-delay-ms", b"0")]
        tenant = TENANTS[i % len(TENANTS)]
        producer.produce(names.jobs, b"x" * 100, tenant.encode(), headers=headers)
        producer.poll(0)
    assert producer.flush(30) == 0
    assert not failures
    return {f"{name}-{i}" for i in range(count)}


def seen_on_disk(consumer: Consumer, topics: list[str]) -> int:
    """How many records the egress topics hold, committed or not."""
    total = 0
    known = consumer.list_topics(timeout=10).topics
    for topic in known.keys() & set(topics):
        # A topic that was made this moment has no leader yet.
        with contextlib.suppress(KafkaException):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
            total += high - low
    return total


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_every_job_is_dispatched_exactly_once_though_the_scheduler_is_killed(
    kafka: str, app_id: str, tmp_path: Path, seed: int, first: int
) -> None:
    """Kill -9 at random moments of dispatching, restart: each id is there exactly once."""

    def aborted_by(number: int) -> int:
        names = TopicNames(f"{app_id}-{number}")
        admin.apply(client_options(kafka), names)
        process = SchedulerProcess(kafka, names.app_id, tmp_path / str(number))
        with running(process):
            kill_at = random.Random(f"{seed}:{number}").randrange(1, JOBS)
            aborted = kill_once(kafka, names, process, kill_at)
        print(f"seed {seed}, number {number}: killed at {kill_at}, {aborted} records aborted")
        return aborted

    # Most of each is waiting, for a process to start and for the group to miss the one killed.
    with ThreadPoolExecutor(KILLS_AT_A_TIME) as pool:
        aborted_records = sum(pool.map(aborted_by, range(first, first + SEEDS_PER_TEST)))
    # Without a single one, no kill would have met an open transaction, and nothing was tested.
    assert aborted_records > 0


def kill_once(kafka: str, names: TopicNames, scheduler: SchedulerProcess, kill_at: int) -> int:
    """Submit, kill when `kill_at` records are written, restart; returns how many were aborted."""
    topics = [names.egress(tenant) for tenant in TENANTS]
    watcher = Consumer({**client_options(kafka), "group.id": "watcher"})
    expected = submit(kafka, names, JOBS)
    await_condition(
        f"{kill_at} records are written",
        lambda: seen_on_disk(watcher, topics) >= kill_at,
        120,
        lambda: f"{seen_on_disk(watcher, topics)} records\n{scheduler.log()}",
    )
    watcher.close()
    scheduler.kill()
    scheduler.start()
    await_records(kafka, topics, JOBS, seconds=120, tell=scheduler.log)
    # A job that leaves twice may do so last, and would be before what is sent now.
    expected |= submit(kafka, names, len(TENANTS), "last")
    await_records(kafka, topics, len(expected), seconds=120, tell=scheduler.log)
    records = read_topics(kafka, topics)
    counts = Counter(header(record, "streamsched-id") for record in records)
    twice = {name: count for name, count in counts.items() if count > 1}
    assert not twice
    assert set(counts) == expected
    return len(read_topics(kafka, topics, committed=False)) - len(records)
