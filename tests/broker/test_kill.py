"""The central promise: exactly once through kill -9, seen by a reader of the topics alone."""

import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from streamsched.core.names import TopicNames
from streamsched.kafka import admin
from tests.broker.reading import header, read_topics
from tests.broker.scheduler_process import SchedulerProcess, running, wait_until

JOBS = 20_000
TENANTS = [f"tenant-{i}" for i in range(8)]
SEEDS = 20

aborted_records: Counter[int] = Counter()


@pytest.fixture
def names(kafka: str, app_id: str) -> TopicNames:
    """The topics of one test, made."""
    found = TopicNames(app_id)
    admin.apply({"bootstrap.servers": kafka}, found)
    return found


@pytest.fixture
def scheduler(kafka: str, app_id: str, tmp_path: Path) -> Iterator[SchedulerProcess]:
    """A scheduler that is ready."""
    with running(SchedulerProcess(kafka, app_id, tmp_path)) as process:
        yield process


def submit(kafka: str, names: TopicNames, count: int) -> set[str]:
    """Produce jobs that are due at once; returns their ids."""
    failures: list[object] = []
    producer = Producer(
        {
            "bootstrap.servers": kafka,
            "partitioner": "murmur2_random",
            "on_delivery": lambda error, _: failures.append(error) if error else None,
        }
    )
    for i in range(count):
        headers = [("streamsched-id", b"job-%d" % i), ("streamsched-delay-ms", b"0")]
        tenant = TENANTS[i % len(TENANTS)]
        producer.produce(names.jobs, b"x" * 100, tenant.encode(), headers=headers)
        producer.poll(0)
    assert producer.flush(30) == 0
    assert not failures
    return {f"job-{i}" for i in range(count)}


def seen_on_disk(consumer: Consumer, topics: list[str]) -> int:
    """How many records the egress topics hold, committed or not."""
    total = 0
    for topic in topics:
        # A topic that was made this moment has no leader yet.
        with contextlib.suppress(KafkaException):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
            total += high - low
    return total


@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", range(SEEDS))
def test_every_job_is_dispatched_exactly_once_though_the_scheduler_is_killed(
    kafka: str, names: TopicNames, scheduler: SchedulerProcess, seed: int, number: int
) -> None:
    """Kill -9 at a random moment of dispatching, restart: each id is there exactly once."""
    rng = random.Random(f"{seed}:{number}")
    kill_at = rng.randrange(1, JOBS)
    print(f"seed {seed}, number {number}: kill at {kill_at} records")
    topics = [names.egress(tenant) for tenant in TENANTS]
    watcher = Consumer({"bootstrap.servers": kafka, "group.id": "watcher"})
    expected = submit(kafka, names, JOBS)
    wait_until(lambda: seen_on_disk(watcher, topics) >= kill_at, 60, scheduler.log)
    scheduler.kill()
    scheduler.start()
    committed = {"": 0}

    def all_there() -> bool:
        committed[""] = len(read_topics(kafka, topics))
        return committed[""] >= JOBS

    wait_until(all_there, 90, lambda: f"{committed}\n{scheduler.log()}")
    records = read_topics(kafka, topics)
    counts = Counter(header(record, "streamsched-id") for record in records)
    twice = {name: count for name, count in counts.items() if count > 1}
    assert not twice
    assert set(counts) == expected
    raw = read_topics(kafka, topics, committed=False)
    print(f"aborted records: {len(raw) - len(records)}")
    aborted_records[number] = len(raw) - len(records)
    watcher.close()
