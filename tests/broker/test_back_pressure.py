"""A broker that stands still while much is on its way: memory stays bounded, rates are kept."""

import threading
from pathlib import Path

import psutil
import pytest
from confluent_kafka.admin import AdminClient

from streamsched.core.limits import MESSAGE_BYTES_MAX
from streamsched.engine.ingress_buffer import BUFFERED_BYTES_MAX
from streamsched.engine.reader import FETCH_BYTES_MAX
from streamsched.kafka.embedded import EmbeddedKafka
from tests.broker.cluster import await_condition, set_config
from tests.broker.installation import Installation, prepared
from tests.broker.reading import await_records, dispatched_at_ms, job_id, read_topics
from tests.connecting import client_options

JOBS = 40_000
WARM_UP_JOBS = 10_000
JOB_BYTES = 4_096
RATE = 100
PARTITIONS = 2
STANDSTILL_SECONDS = 14
"""Longer than a transaction may last and a session may be silent."""

FETCHING_SECONDS = 10
"""Long enough to fetch everything, were it not for the bound."""

FULL_BYTES_MIN = BUFFERED_BYTES_MAX // 2
"""What is buffered, over all partitions, once fetching has gone on without commits."""

BUFFERED = "streamsched_ingress_buffered_bytes"
RSS_GROWTH_BYTES_MAX = 32 * 1024 * 1024
"""Beside what is buffered: what allocators keep."""


class Watch:
    """The most that a process has needed while it was looked at."""

    def __init__(self, it: Installation) -> None:
        """Of the scheduler of `it`, from now on."""
        assert it.process._process is not None
        [self._process] = psutil.Process(it.process._process.pid).children()
        self._it = it
        self.rss_bytes_before = self.rss_bytes_max = self._process.memory_info().rss
        self.buffered_bytes_max = 0.0

    def look(self) -> None:
        """Note what it needs now."""
        self.rss_bytes_max = max(self.rss_bytes_max, self._process.memory_info().rss)
        self.buffered_bytes_max = max(self.buffered_bytes_max, self._it.process.metric(BUFFERED))

    def for_seconds(self, seconds: float) -> None:
        """Look again and again: what must not happen can only be waited for."""
        over = threading.Event()
        threading.Timer(seconds, over.set).start()
        await_condition("that time is over", lambda: self.look() or over.is_set(), 60 + seconds)


@pytest.mark.timeout(600)
def test_standstill_of_the_broker_costs_no_memory_and_no_job(
    own_kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    """Buffers that were full are bounded; afterwards all leaves once, the limited at its rate."""
    kafka = own_kafka.bootstrap_servers
    admin = AdminClient(client_options(kafka))
    with prepared(kafka, tmp_path / "it", partitions=PARTITIONS) as it:
        it.process.start()
        it.process.wait_ready()
        it.sender.settings("limited", rate=f"{RATE}/s")
        it.process.await_tenant("limited", rate=f"{RATE}/s")
        free = [f"free-{number}" for number in range(4)]
        tenants = ["limited", *free]
        topics = [it.names.egress(tenant) for tenant in tenants]
        # Caches and allocators have what they keep before anything is measured.
        warm_up = [f"warm-up-{number}" for number in range(WARM_UP_JOBS)]
        for number, name in enumerate(warm_up):
            it.sender.job(free[number % 4], name, value=b"x" * JOB_BYTES)
        it.sender.job("limited", "warm-up")
        it.sender.flush()
        await_records(kafka, topics, WARM_UP_JOBS + 1, seconds=200, tell=it.process.log)
        watch = Watch(it)
        # While nothing can be committed, but all be fetched, the buffers fill as far as they may.
        set_config(admin, it.names.changelog, "max.message.bytes", "100")
        for number in range(JOBS):
            tenant = "limited" if number % 20 == 0 else free[number % 4]
            it.sender.job(tenant, f"{number}", value=b"x" * JOB_BYTES)
        it.sender.flush()
        await_condition(
            "the buffers are full",
            lambda: watch.look() or watch.buffered_bytes_max >= FULL_BYTES_MIN,
            60,
            it.process.log,
        )
        watch.for_seconds(FETCHING_SECONDS)
        own_kafka.nodes[0].suspend()
        try:
            watch.for_seconds(STANDSTILL_SECONDS)
        finally:
            own_kafka.nodes[0].resume()
        set_config(admin, it.names.changelog, "max.message.bytes", f"{MESSAGE_BYTES_MAX}")
        grown = watch.rss_bytes_max - watch.rss_bytes_before
        print(f"{watch.buffered_bytes_max:,.0f} bytes buffered, {grown:,} more resident")
        wanted = JOBS + WARM_UP_JOBS + 1
        await_records(kafka, topics, wanted, seconds=200, tell=it.process.log)
        records = read_topics(kafka, topics)
        ids = sorted(job_id(message) for message in records)
        assert ids == sorted([*(f"{number}" for number in range(JOBS)), *warm_up, "warm-up"])
        times = sorted(
            dispatched_at_ms(m) for m in records if m.topic() == it.names.egress("limited")
        )
        in_a_second = max(
            sum(start <= at < start + 1_000 for at in times[i : i + 2 * RATE])
            for i, start in enumerate(times)
        )
        print(f"{in_a_second} in a second at {RATE}/s")
        assert in_a_second <= RATE + RATE // 4
        limit = PARTITIONS * (BUFFERED_BYTES_MAX + FETCH_BYTES_MAX)
        assert watch.buffered_bytes_max <= limit
        assert grown < limit + RSS_GROWTH_BYTES_MAX
        assert limit < JOBS * JOB_BYTES
