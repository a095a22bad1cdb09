"""A scheduler with topics of its own, as one thing to test against."""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Message
from confluent_kafka.admin import AdminClient

from streamsched.core.names import TopicNames
from streamsched.kafka import admin as topics
from streamsched.kafka.admin import PARTITIONS
from tests.broker.cluster import delete_topic
from tests.broker.reading import any_record, await_records, read_events
from tests.broker.scheduler_process import SchedulerProcess
from tests.broker.sending import Sender
from tests.connecting import client_options


@dataclass(frozen=True)
class Installation:
    """Topics, a scheduler on them, and a plain client."""

    kafka: str
    names: TopicNames
    process: SchedulerProcess
    sender: Sender
    partitions: int = PARTITIONS

    def dispatched(self, tenant: str, count: int) -> list[Message]:
        """All committed records on the tenant's default topic, once there are `count`."""
        return self.committed(self.names.egress(tenant), count)

    def committed(
        self, topic: str, count: int, only: Callable[[Message], bool] = any_record
    ) -> list[Message]:
        """All committed records of a topic that `only` picks, once there are `count`."""
        tell = self.process.log
        return await_records(self.kafka, [topic], count, only=only, tell=tell)

    def events(self, tenant: str) -> list[dict[str, Any]]:
        """All events of one tenant."""
        found = read_events(self.kafka, self.names.events)
        return [event for event in found if event["tenant"] == tenant]


@contextlib.contextmanager
def prepared(
    kafka: str,
    folder: Path,
    *,
    partitions: int = PARTITIONS,
    life_seconds: int = 600,
    options: Mapping[str, str] | None = None,
    **settings: str,
) -> Iterator[Installation]:
    """Topics and a scheduler that is not started; in the end it is killed and they are deleted.

    `options` are those of the scheduler's Kafka clients, where they are not the test's own.
    """
    names = TopicNames(f"test-{uuid.uuid4().hex[:12]}")
    topics.apply(client_options(kafka), names, partitions)
    process = SchedulerProcess(
        kafka, names.app_id, folder, life_seconds=life_seconds, options=options, **settings
    )
    try:
        yield Installation(kafka, names, process, Sender(kafka, names), partitions)
    finally:
        process.kill()
        delete_topics(kafka, names)


@contextlib.contextmanager
def installed(kafka: str, folder: Path, **settings: Any) -> Iterator[Installation]:
    """As `prepared`, with the scheduler ready."""
    with prepared(kafka, folder, **settings) as it:
        it.process.start()
        it.process.wait_ready()
        yield it


def recreate(it: Installation, admin: AdminClient, topic: str) -> None:
    """Delete a topic and make it anew as it was."""
    delete_topic(admin, topic)
    topics.apply(client_options(it.kafka), it.names, it.partitions)


def delete_topics(kafka: str, names: TopicNames) -> None:
    """Remove all topics of an installation."""
    admin = AdminClient(client_options(kafka))
    known = [name for name in admin.list_topics(timeout=10).topics if name.startswith(names.app_id)]
    for deleted in admin.delete_topics(known, operation_timeout=10).values() if known else ():
        deleted.exception(10)
