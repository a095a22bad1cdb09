"""Producing jobs and settings with a plain client, as anybody could."""

import json
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from streamsched.core import headers as h
from streamsched.core.names import DEFAULT_TENANT, TopicNames
from streamsched.core.placement import partition_for
from tests.connecting import client_options

FLUSH_SECONDS_MAX = 60.0

Headers = Sequence[tuple[str, bytes | None]]


class Sender:
    """A producer for one installation. `options` go over the defaults, in librdkafka's spelling.

    Every call returns a list that holds the delivered record once `flush` has returned.
    """

    def __init__(self, kafka: str, names: TopicNames, **options: Any) -> None:
        self.names = names
        self._kafka = kafka
        self._options = options
        self._failures: list[KafkaError] = []
        self._producer = Producer(
            {
                **client_options(kafka),
                "partitioner": "murmur2_random",
                # A retry would otherwise be a second job wherever Kafka is slow to answer.
                "enable.idempotence": True,
                "message.max.bytes": 4_000_000,
                "linger.ms": 1,
                **{name.replace("_", "."): value for name, value in options.items()},
            }
        )

    def again(self) -> "Sender":
        """Another one like it, for another thread."""
        return Sender(self._kafka, self.names, **self._options)

    def job(
        self,
        tenant: str,
        job_id: str,
        *more: tuple[str, bytes | None],
        delay_ms: int = 0,
        value: bytes | None = b"payload",
        partition: int = -1,
    ) -> list[Message]:
        """A job in header mode; `more` are further headers."""
        marks = [(h.ID, job_id.encode()), (h.DELAY_MS, b"%d" % delay_ms), *more]
        return self.record(tenant.encode(), value, marks, partition=partition)

    def cancel(self, tenant: str, job_id: str) -> list[Message]:
        """A null value under the id."""
        return self.record(tenant.encode(), None, [(h.ID, job_id.encode())])

    def record(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        *,
        partition: int = -1,
        timestamp_ms: int = 0,
        topic: str = "",
    ) -> list[Message]:
        """Any record to the ingress topic or `topic`; `timestamp_ms` 0 is now."""
        topic = topic or self.names.jobs
        return self._produce(topic, key, value, headers, partition, timestamp_ms)

    def settings(self, tenant: str = DEFAULT_TENANT, **fields: Any) -> list[Message]:
        """A settings record."""
        return self.settings_record(tenant.encode(), json.dumps(fields).encode())

    def settings_record(self, key: bytes | None, value: bytes | None) -> list[Message]:
        """Any record to the settings topic."""
        return self._produce(self.names.tenant_settings, key, value, (), 0, 0)

    def flush(self) -> None:
        """Wait until everything is delivered; fails if anything is not."""
        assert self._producer.flush(FLUSH_SECONDS_MAX) == 0
        assert not self._failures, self._failures[0].str()

    def _produce(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int,
        timestamp_ms: int,
    ) -> list[Message]:
        delivered: list[Message] = []

        def on_delivery(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._failures.append(error)
            else:
                delivered.append(message)

        self._producer.produce(
            topic,
            value,
            key,
            partition,
            on_delivery=on_delivery,
            timestamp=timestamp_ms,
            headers=list(headers),
        )
        self._producer.poll(0)
        return delivered


def tenants_of(partition: int, partitions: int, count: int, name: str = "tenant") -> list[str]:
    """Names of tenants that all belong on one ingress partition."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        candidate = f"{name}-{number}"
        if partition_for(candidate.encode(), partitions) == partition:
            found.append(candidate)
        number += 1
    return found
