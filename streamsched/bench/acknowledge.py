"""How soon a job is acknowledged that a microservice hands to its producer."""

import time
from collections.abc import Callable
from typing import Final

from confluent_kafka import KafkaError, Message, Producer

from streamsched.bench.errors import BenchError
from streamsched.bench.load import LIBRDKAFKA_LOG_LEVEL, Load

FLUSH_SECONDS_MAX: Final = 30.0

POLL_SECONDS_MIN: Final = 0.001
"""librdkafka counts in milliseconds: asked to wait for less it returns at once, and a producer that
goes round meanwhile takes a core from the broker."""


def steady_producer(bootstrap_servers: str, topic: str) -> Producer:
    """The producer of a microservice, without linger and with acks of all replicas."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "allow.auto.create.topics": False,
            "linger.ms": 0,
            "log_level": LIBRDKAFKA_LOG_LEVEL,
        }
    )
    # The first produce to a topic waits for its metadata, once in the life of a producer.
    producer.list_topics(topic, FLUSH_SECONDS_MAX)
    return producer


def acknowledgement_ms(
    producer: Producer, topic: str, load: Load, jobs_per_second: int
) -> list[float]:
    """Produce `load` at a steady pace; how long each acknowledgement took, ascending.

    Raises `BenchError` where one failed.
    """
    taken: list[float] = []
    failures: list[KafkaError] = []

    def note_since(sent: float) -> Callable[[KafkaError | None, Message], None]:
        def note(error: KafkaError | None, _message: Message) -> None:
            if error is None:
                taken.append((time.perf_counter() - sent) * 1000)
            else:
                failures.append(error)

        return note

    began = time.perf_counter()
    for index, (key, value) in enumerate(load.records()):
        at = began + index / jobs_per_second
        # Waits in the call that also serves acknowledgements the moment they come.
        while (rest := at - time.perf_counter()) > 0:
            producer.poll(max(rest, POLL_SECONDS_MIN))
        producer.produce(topic, value, key, on_delivery=note_since(time.perf_counter()))
    left = producer.flush(FLUSH_SECONDS_MAX)
    if left or failures:
        reason = failures[0].str() if failures else f"{left} not acknowledged in time"
        raise BenchError(f"jobs could not be written to {topic} ({reason})")
    return sorted(taken)
