"""A worker's side of the lateness benchmark: one read_committed consumer, its own process.

    python -m streamsched.bench.receiver '{"bootstrap_servers": …}'

Prints `ready` once it reads at the end of every topic, and then one JSON object.
"""

import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Final

import msgspec
import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from streamsched.bench.result import percentile
from streamsched.core import headers as h

READY: Final = "ready"
_DRAIN_RECORDS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Order:
    """Receive `jobs` jobs from `topics` of one partition each, within `seconds_max`."""

    bootstrap_servers: str
    topics: list[str]
    jobs: int
    seconds_max: float
    id_prefix: str
    """What the ids of the jobs begin with; there may be others on the topics."""
    with_each: bool = False
    """Whether every single job is told of, too."""


@dataclass(frozen=True, slots=True)
class Received:
    """Lateness in milliseconds at receipt; `early` jobs came before they were due."""

    records: int
    jobs: int
    early: int
    lateness_ms_p50: float
    lateness_ms_p99: float
    lateness_ms_max: float
    each: list[tuple[int, float]] = field(default_factory=list)
    """Due time in epoch milliseconds and lateness of every job, in the order of receipt."""


def receive(order: Order) -> Received:
    """Read until every job has come or the time is over."""
    consumer = Consumer(
        {
            "bootstrap.servers": order.bootstrap_servers,
            "group.id": "streamsched-bench-receiver",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 100,
        }
    )
    each: list[tuple[int, float]] = []
    ids: set[bytes] = set()
    id_prefix = order.id_prefix.encode()
    waiting_for = set(order.topics)
    deadline = time.monotonic() + order.seconds_max
    try:
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING) for topic in order.topics])
        while len(ids) < order.jobs and time.monotonic() < deadline:
            # The call for many would wait for many: it is only used for what is there already.
            first = consumer.poll(0.1)
            if first is None:
                continue
            messages = [first, *consumer.consume(_DRAIN_RECORDS, 0)]
            now_ms = time.time_ns() / 1e6
            for message in messages:
                error = message.error()
                if error is None:
                    key = message.key()
                    assert isinstance(key, bytes)
                    if key.startswith(id_prefix):
                        ids.add(key)
                        due_ms = _due_ms(message.headers())
                        each.append((due_ms, now_ms - due_ms))
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its name
                    if waiting_for:
                        waiting_for.discard(message.topic() or "")
                        if not waiting_for:
                            print(READY, flush=True)
                else:
                    raise RuntimeError(error.str())
    finally:
        consumer.close()
    if not each:
        return Received(0, 0, 0, 0.0, 0.0, 0.0)
    lateness = sorted(late for _, late in each)
    return Received(
        records=len(lateness),
        jobs=len(ids),
        early=sum(value < 0 for value in lateness),
        lateness_ms_p50=percentile(lateness, 50),
        lateness_ms_p99=percentile(lateness, 99),
        lateness_ms_max=lateness[-1],
        each=each if order.with_each else [],
    )


def _due_ms(headers: object) -> int:
    for name, value in headers or ():  # type: ignore[attr-defined]
        if name == h.DUE_AT:
            return int(value)
    raise RuntimeError(f"a dispatched record has no header {h.DUE_AT}")


if __name__ == "__main__":
    received = receive(msgspec.json.decode(sys.argv[1], type=Order))
    sys.stdout.buffer.write(orjson.dumps(asdict(received)))
