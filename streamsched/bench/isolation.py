"""What a tenant notices of others that flood, stand still, or send what is broken.

Bystanders have jobs fall due all the time. Beside them, in the same scheduler and on the same
partitions, one kind of trouble after the other begins and none of them ends: the last stretch
has all of them.
"""

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from streamsched.bench.cluster import BenchCluster, bench_cluster
from streamsched.bench.errors import BenchError
from streamsched.bench.load import (
    FLUSH_SECONDS_MAX,
    LIBRDKAFKA_LOG_LEVEL,
    Load,
    envelope,
    load_producer,
    now_ms,
    tenant_names,
)
from streamsched.bench.machine import machine
from streamsched.bench.result import BenchResult, job_parameters, percentile
from streamsched.bench.scheduler import PENDING, REJECTED, Scheduler
from streamsched.bench.steady import LEAD_MS, Event, SteadyProducer, receiving
from streamsched.cli.errors import say
from streamsched.client import Client
from streamsched.core.names import TopicNames

JOBS_PER_SECOND: Final = 1_000
WARM_UP_SECONDS: Final = 40
"""A broker that has just started still compiles its code."""

STRETCH_SECONDS: Final = 15
STRETCHES: Final = 9
BACKLOG_JOBS: Final = 100_000
BACKLOG_RATE: Final = "100/s"
OFTEN_SECONDS: Final = 0.1
BAD_RECORDS_AT_ONCE: Final = 20
JOBS_TO_BROKEN_TOPIC: Final = 1_000
SMALL_TOPIC_BYTES: Final = 100
"""No job fits into a topic that takes no more."""


class Trouble:
    """Tenants that nobody wants as neighbours; a context manager that silences them."""

    def __init__(self, cluster: BenchCluster, names: TopicNames) -> None:
        """They are quiet at first."""
        self._servers = cluster.bootstrap_servers
        self._names = names
        self._client = Client(self._servers, names.app_id)
        self._producer = load_producer(self._servers)
        self._often: list[Callable[[], None]] = []
        self._stopping = threading.Event()
        self._fault: Exception | None = None
        self._thread = threading.Thread(target=self._go_on, name="trouble", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._client.close()
        if kind is None and self._fault is not None:
            raise BenchError(f"the trouble has stopped by itself: {self._fault}")

    def all_kinds(self) -> Sequence[tuple[str, Callable[[], None]]]:
        """Name and beginning of each kind; `STRETCHES` less the one in which there is none."""
        return (
            ("a flood far over its rate comes in", self.flood),
            ("its backlog stands", self.wait),
            ("a flood of a paused tenant comes in", self.stand_still),
            ("both backlogs stand", self.wait),
            ("settings that never rest", self.change_often),
            ("broken settings", self.break_settings),
            ("broken records", self.send_broken_records),
            ("a broken egress topic", self.break_topic),
        )

    def wait(self) -> None:
        """Nothing new: what has begun goes on."""

    def flood(self) -> None:
        """A backlog that is due at once, of a tenant with a small rate."""
        self._client.set_tenant("flood", rate=BACKLOG_RATE)
        self._send_jobs("flood", BACKLOG_JOBS)

    def stand_still(self) -> None:
        """A backlog that is due at once, of a tenant that is paused."""
        self._client.set_tenant("paused", paused=True)
        self._send_jobs("paused", BACKLOG_JOBS)

    def change_often(self) -> None:
        """Another rate ten times a second, for one with a backlog."""
        self._send_jobs("restless", JOBS_TO_BROKEN_TOPIC)
        self._often.append(lambda: self._set_rate("1/s"))
        self._often.append(lambda: self._set_rate("2/s"))

    def break_settings(self) -> None:
        """Settings records that are refused."""
        topic = self._names.tenant_settings
        self._often.append(lambda: self._producer.produce(topic, b'{"rate":"fast"}', b"broken"))

    def send_broken_records(self) -> None:
        """Records on the ingress topic that are no jobs."""

        def send() -> None:
            for _ in range(BAD_RECORDS_AT_ONCE):
                self._producer.produce(self._names.jobs, b'{"id":', b"broken")

        self._often.append(send)

    def break_topic(self) -> None:
        """Jobs for an egress topic that takes none of them."""
        topic = self._names.egress("nowhere")
        admin = AdminClient({"bootstrap.servers": self._servers, "log_level": LIBRDKAFKA_LOG_LEVEL})
        wanted = NewTopic(topic, 1, 1, config={"max.message.bytes": str(SMALL_TOPIC_BYTES)})
        try:
            admin.create_topics([wanted])[topic].result(FLUSH_SECONDS_MAX)
        except KafkaException as error:
            raise BenchError(f"topic {topic} cannot be made: {error.args[0].str()}") from error
        self._send_jobs("nowhere", JOBS_TO_BROKEN_TOPIC)

    def _set_rate(self, rate: str) -> None:
        self._client.set_tenant("restless", rate=rate)

    def _send_jobs(self, tenant: str, jobs: int) -> None:
        key, due_at_ms = tenant.encode(), now_ms()
        for index in range(jobs):
            value = envelope(f"{tenant}-{index:06d}", due_at_ms)
            self._producer.produce(self._names.jobs, value, key)
        if self._producer.flush(FLUSH_SECONDS_MAX):
            raise BenchError(f"the jobs of {tenant} could not be written")

    def _go_on(self) -> None:
        try:
            while not self._stopping.wait(OFTEN_SECONDS):
                for act in tuple(self._often):
                    act()
                self._producer.poll(0)
        except Exception as error:  # noqa: BLE001 - told by whoever leaves the block
            self._fault = error


def bench_isolation(tenants: int, partitions: int) -> list[BenchResult]:
    """Lateness of bystanders alone, and beside each kind of trouble.

    Raises `BenchError` where a trouble has not happened, or a bystander's job is missing.
    """
    seconds = WARM_UP_SECONDS + (STRETCHES + 1) * STRETCH_SECONDS
    jobs = seconds * JOBS_PER_SECOND
    topics = tenant_names(tenants, partitions)
    with bench_cluster() as cluster:
        names = TopicNames("bench-isolation")
        cluster.make_topics(names, partitions, topics)
        with Scheduler(cluster.bootstrap_servers, names, cluster.folder) as scheduler:
            scheduler.wait_ready()
            egress = [names.egress(tenant) for tenant in topics]
            with receiving(cluster, egress, jobs, seconds + 60.0, with_each=True) as received:
                load = Load(jobs, tenants, partitions, now_ms() + LEAD_MS, seconds * 1_000)
                with (
                    SteadyProducer(cluster.bootstrap_servers, names.jobs, load),
                    Trouble(cluster, names) as trouble,
                ):
                    stretches = _play(trouble)
                    _check_trouble(scheduler)
                each = received().each
        cluster.check_dispatched(names, topics, jobs)
    return _judged(stretches, each, tenants, partitions)


def _play(trouble: Trouble) -> list[Event]:
    stretches: list[Event] = []

    say("warming up")
    time.sleep(WARM_UP_SECONDS)
    for name, begin in (("alone", trouble.wait), *trouble.all_kinds()):
        say(name)
        from_ms = now_ms()
        until_ms = from_ms + STRETCH_SECONDS * 1_000
        begin()
        time.sleep(max(0, until_ms - now_ms()) / 1_000)
        stretches.append(Event(name, from_ms, until_ms))
    return stretches


def _check_trouble(scheduler: Scheduler) -> None:
    pending, rejected = scheduler.counter(PENDING), scheduler.counter(REJECTED)
    if pending < BACKLOG_JOBS or not rejected:
        raise BenchError(f"the trouble was none: {pending} jobs pending, {rejected} rejected")


def _judged(
    stretches: Sequence[Event], each: Sequence[tuple[int, float]], tenants: int, partitions: int
) -> list[BenchResult]:
    late = [
        sorted(value for due_ms, value in each if stretch.at_ms <= due_ms < stretch.until_ms)
        for stretch in stretches
    ]
    alone = percentile(late[0], 99)
    return [
        BenchResult(
            bench=f"isolation: {stretch.name}",
            jobs=len(values),
            tenants=tenants,
            lateness_ms_p50=percentile(values, 50),
            lateness_ms_p99=percentile(values, 99),
            lateness_ms_max=values[-1],
            lateness_ms_p99_alone=alone,
            parameters=job_parameters(partitions) | {"jobs_per_second": JOBS_PER_SECOND},
            machine=machine(),
        )
        for stretch, values in zip(stretches, late, strict=True)
    ]
