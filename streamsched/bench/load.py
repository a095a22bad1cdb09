"""The jobs that every benchmark works on, and putting them on an ingress topic quickly.

A job is a record of exactly 200 bytes of value in envelope mode, keyed by its tenant. Tenants
are named so that each ingress partition owns equally many: the benchmarks compare two data
paths, not the luck of a hash.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, Message, Producer

from streamsched.bench.errors import BenchError
from streamsched.core import headers as h
from streamsched.core.placement import partition_for

JOB_BYTES: Final = 200
MODE: Final = "envelope"
FLUSH_SECONDS_MAX: Final = 120.0

LIBRDKAFKA_LOG_LEVEL: Final = 2
"""Only what is critical: what a fresh broker makes librdkafka try twice is no news."""

_POLL_EVERY: Final = 10_000
_PADDING: Final = b"x" * JOB_BYTES
ID_PREFIX: Final = "job-"
WARM_UP_PREFIX: Final = "warm-up-"


Sent = tuple[bytes, bytes | None, list[tuple[str, str | bytes | None]]]
"""Key, value and headers of a record."""


@dataclass(frozen=True, slots=True)
class Load:
    """`jobs` jobs over `tenants` tenants; job i is due at `due_at_ms` + i * `spread_ms` / jobs."""

    jobs: int
    tenants: int
    partitions: int
    due_at_ms: int
    spread_ms: int = 0
    id_prefix: str = ID_PREFIX

    def due_of(self, index: int) -> int:
        """When job `index` is due, in epoch milliseconds."""
        return self.due_at_ms + index * self.spread_ms // self.jobs

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of every job, tenants in turn."""
        names = [name.encode() for name in tenant_names(self.tenants, self.partitions)]
        for index in range(self.jobs):
            job_id = f"{self.id_prefix}{index:09d}"
            yield names[index % self.tenants], envelope(job_id, self.due_of(index))

    def jobs_sent(self) -> Iterator[Sent]:
        """Every job as it is produced."""
        for key, value in self.records():
            yield key, value, []

    def cancels(self) -> Iterator[Sent]:
        """The cancel of every job, in the same order."""
        names = [name.encode() for name in tenant_names(self.tenants, self.partitions)]
        for index in range(self.jobs):
            job_id = f"{self.id_prefix}{index:09d}".encode()
            yield names[index % self.tenants], None, [(h.ID, job_id)]

    def warm_up(self, now_ms: int) -> "Load":
        """One job for each tenant, due at once: afterwards every egress topic is known."""
        return Load(self.tenants, self.tenants, self.partitions, now_ms, id_prefix=WARM_UP_PREFIX)


def is_warm_up(job_id: bytes | str | None) -> bool:
    """Whether a dispatched job was only there to make its egress topic known."""
    text = job_id.decode() if isinstance(job_id, bytes) else job_id
    return text is not None and text.startswith(WARM_UP_PREFIX)


def now_ms() -> int:
    """The wall clock in epoch milliseconds."""
    return time.time_ns() // 1_000_000


def tenant_names(tenants: int, partitions: int) -> list[str]:
    """Names of which every partition owns equally many, as far as the numbers allow."""
    room = [
        tenants // partitions + (partition < tenants % partitions)
        for partition in range(partitions)
    ]
    names: list[str] = []
    number = 0
    while len(names) < tenants:
        name = f"tenant-{number:04d}"
        number += 1
        owner = partition_for(name.encode(), partitions)
        if room[owner]:
            room[owner] -= 1
            names.append(name)
    return names


def envelope(job_id: str, due_at_ms: int) -> bytes:
    """One job in envelope mode, filled up to `JOB_BYTES`."""
    head = b'{"id":"%b","due_at":%d,"payload":{"text":"' % (job_id.encode(), due_at_ms)
    tail = b'"}}'
    return head + _PADDING[: JOB_BYTES - len(head) - len(tail)] + tail


def load_producer(bootstrap_servers: str) -> Producer:
    """A producer that is as fast as it can be, with Kafka's own placement of keys."""
    options: dict[str, Any] = {
        "bootstrap.servers": bootstrap_servers,
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "allow.auto.create.topics": False,
        "linger.ms": 50,
        "batch.size": 500_000,
        "batch.num.messages": 100_000,
        "queue.buffering.max.messages": 500_000,
        "queue.buffering.max.kbytes": 1_048_576,
        "delivery.report.only.error": True,
        "log_level": LIBRDKAFKA_LOG_LEVEL,
    }
    return Producer(options)


def produce(bootstrap_servers: str, topic: str, load: Load, *, cancel: bool = False) -> None:
    """Put every job of `load` on `topic`, or its cancel, and wait until all are acknowledged.

    Raises `BenchError` where one was not.
    """
    producer = load_producer(bootstrap_servers)
    failures: list[KafkaError] = []

    def note(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            failures.append(error)

    for index, (key, value, headers) in enumerate(load.cancels() if cancel else load.jobs_sent()):
        while True:
            try:
                producer.produce(topic, value, key, headers=headers, on_delivery=note)
                break
            except BufferError:
                producer.poll(0.1)
        if index % _POLL_EVERY == 0:
            producer.poll(0)
    left = producer.flush(FLUSH_SECONDS_MAX)
    if left or failures:
        reason = failures[0].str() if failures else f"{left} not acknowledged in time"
        raise BenchError(
            f"jobs could not be written to {topic} ({reason}): see whether the broker is well"
        )
