"""The world of the contract's tests on a real broker, with a scheduler in a process of its own."""

import json
import time
from typing import Any

from confluent_kafka import Message

from streamsched.core.names import TopicNames
from streamsched.core.placement import partition_for
from tests.broker.cluster import await_condition
from tests.broker.installation import Installation
from tests.broker.reading import await_records, headers_of, read_topics
from tests.contract.world import Headers, Produced, Received

PROBE = "probe-of-the-world"


class BrokerWorld:
    """Implements `tests.contract.world.World`."""

    lead_ms = 4_000

    def __init__(self, installation: Installation) -> None:
        self._it = installation
        self._probes = 0

    @property
    def app_id(self) -> str:
        """What the names of its topics begin with."""
        return self._it.names.app_id

    @property
    def names(self) -> TopicNames:
        """Its topics."""
        return self._it.names

    @property
    def partitions(self) -> int:
        """How many partitions the ingress topic has."""
        return self._it.partitions

    def now_ms(self) -> int:
        """The wall clock."""
        return time.time_ns() // 1_000_000

    def submit(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        *,
        timestamp_ms: int | None = None,
        partition: int | None = None,
    ) -> Produced:
        """Produce to the ingress topic, and wait until it is acknowledged."""
        if partition is None:
            partition = partition_for(key or b"", self.partitions)
        delivered = self._it.sender.record(
            key, value, headers, partition=partition, timestamp_ms=timestamp_ms or 0
        )
        self._it.sender.flush()
        return Produced(partition, delivered[0].offset() or 0)

    def publish_settings(self, key: bytes | None, value: bytes | None) -> None:
        """Produce to the settings topic; a record behind it tells when it was read."""
        self._probes += 1
        self._it.sender.settings_record(key, value)
        # One partition only would show what that one has read: each has a probe of its own.
        for partition in range(self.partitions):
            self._it.sender.settings(self._probe(partition), burst=self._probes, paused=False)
        self._it.sender.flush()
        for partition in range(self.partitions):
            self._it.process.await_tenant(self._probe(partition), burst=self._probes)

    def wait_for_egress(self, topic: str, count: int) -> list[Received]:
        """The first `count` committed records; in order where there is one partition."""
        found = await_records(self._it.kafka, [topic], count, tell=self._it.process.log)
        found.sort(key=lambda message: message.timestamp()[1])
        return [_received(message) for message in found[:count]]

    def wait_for_events(self, count: int) -> list[dict[str, Any]]:
        """The first `count` events, as decoded JSON."""
        found = self.wait_for_egress(self.names.events, count)
        return [json.loads(record.value or b"") for record in found]

    def wait_for_rejected(self, count: int) -> list[Received]:
        """The first `count` rejected records."""
        return self.wait_for_egress(self.names.rejected, count)

    def wait_for_dead_letters(self, count: int) -> list[Received]:
        """The first `count` dead letters."""
        return self.wait_for_egress(self.names.dead_letters, count)

    def settle(self) -> None:
        """Wait until a job that is due has left through each partition."""
        self._probes += 1
        for partition in range(self.partitions):
            self._it.sender.job(
                self._probe(partition), f"settle-{self._probes}", partition=partition
            )
        self._it.sender.flush()
        for partition in range(self.partitions):
            topic = self.names.egress(self._probe(partition))
            name = f"settle-{self._probes}"
            await_condition(
                "a probe has left",
                lambda t=topic, n=name: any(  # type: ignore[misc]
                    ("streamsched-id", n.encode()) in headers_of(m)
                    for m in read_topics(self._it.kafka, [t])
                ),
                60,
                self._it.process.log,
            )

    def pass_time(self, milliseconds: int) -> None:
        """Wait: what must not happen can only be waited for."""
        time.sleep(milliseconds / 1_000)

    def count(self, topic: str) -> int:
        """How many committed records the topic holds now."""
        return len(read_topics(self._it.kafka, [topic]))

    def _probe(self, partition: int) -> str:
        """A tenant of that partition which no test uses."""
        number = 0
        while partition_for(f"{PROBE}-{number}".encode(), self.partitions) != partition:
            number += 1
        return f"{PROBE}-{number}"


def _received(message: Message) -> Received:
    return Received(
        message.topic() or "",
        message.partition() or 0,
        message.key(),
        message.value(),
        headers_of(message),
        message.timestamp()[1],
    )
