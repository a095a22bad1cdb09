"""A broker that stands still while much is on its way: memory stays bounded, rates are kept."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from streamsched.engine.ingress_buffer import BUFFERED_BYTES_MAX
from streamsched.engine.reader import FETCH_BYTES_MAX
from streamsched.kafka.embedded import EmbeddedKafka
from tests.broker.cluster import await_condition
from tests.broker.installation import Installation, prepared
from tests.broker.reading import await_records, dispatched_at_ms, job_id, read_topics

JOBS = 40_000
JOB_BYTES = 4_096
RATE = 100
PARTITIONS = 2
STANDSTILL_SECONDS = 14
"""Longer than a transaction may last and a session may be silent."""

BUFFERED = "streamsched_ingress_buffered_bytes"
RSS_GROWTH_BYTES_MAX = 128 * 1024 * 1024


class Watch:
    """The most that a process has needed while it was looked at."""

    def __init__(self, it: Installation) -> None:
        """Of the scheduler of `it`."""
        assert it.process._process is not None
        [self._process] = psutil.Process(it.process._process.pid).children()
        self._it = it
        self.rss_bytes_max = 0
        self.buffered_bytes_max = 0.0

    def look(self) -> None:
        """Note what it needs now."""
        self.rss_bytes_max = max(self.rss_bytes_max, self._process.memory_info().rss)
        self.buffered_bytes_max = max(self.buffered_bytes_max, self._it.process.metric(BUFFERED))


@contextmanager
def standing_still(kafka: EmbeddedKafka, watch: Watch) -> Iterator[None]:
    """Suspend the broker for a while, with an eye on the scheduler."""
    node = kafka.nodes[0]
    node.suspend()
    try:
        over = threading.Event()
        threading.Timer(STANDSTILL_SECONDS, over.set).start()
        await_condition("the standstill is over", lambda: watch.look() or over.is_set(), 60)
        yield
    finally:
        node.resume()


@pytest.mark.timeout(300)
def test_standstill_of_the_broker_costs_no_memory_and_no_job(
    own_kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    """What was fetched is bounded; afterwards all leaves once, a limited tenant at its rate."""
    kafka = own_kafka.bootstrap_servers
    with prepared(kafka, tmp_path / "it", partitions=PARTITIONS) as it:
        it.process.start()
        it.process.wait_ready()
        it.sender.settings("limited", rate=f"{RATE}/s")
        it.process.await_tenant("limited", rate=f"{RATE}/s")
        tenants = ["limited", *(f"free-{number}" for number in range(4))]
        for tenant in tenants:
            it.sender.job(tenant, "warm-up")
        it.sender.flush()
        for tenant in tenants:
            it.dispatched(tenant, 1)
        watch = Watch(it)
        watch.look()
        before = watch.rss_bytes_max
        for number in range(JOBS):
            tenant = "limited" if number % 20 == 0 else f"free-{number % 4}"
            it.sender.job(tenant, f"{number}", value=b"x" * JOB_BYTES)
        it.sender.flush()
        with standing_still(own_kafka, watch):
            print(f"buffered {watch.buffered_bytes_max:,.0f} bytes at most while it stood still")
        topics = [it.names.egress(tenant) for tenant in tenants]
        wanted = JOBS + len(tenants)
        await_records(kafka, topics, wanted, seconds=200, tell=it.process.log)
        watch.look()
        records = read_topics(kafka, topics)
        ids = sorted(job_id(message) for message in records)
        assert ids == sorted([*(f"{number}" for number in range(JOBS)), *["warm-up"] * 5])
        times = sorted(
            dispatched_at_ms(m) for m in records if m.topic() == it.names.egress("limited")
        )
        in_a_second = max(
            sum(start <= at < start + 1_000 for at in times[i : i + 2 * RATE])
            for i, start in enumerate(times)
        )
        grown = watch.rss_bytes_max - before
        print(f"{in_a_second} in a second at {RATE}/s; {grown:,} bytes more resident at most")
        assert in_a_second <= RATE + RATE // 4
        limit = PARTITIONS * (BUFFERED_BYTES_MAX + FETCH_BYTES_MAX)
        assert watch.buffered_bytes_max <= limit
        assert grown < limit + RSS_GROWTH_BYTES_MAX
        assert limit < JOBS * JOB_BYTES
