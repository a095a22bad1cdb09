"""A real Kafka for one benchmark: fresh, on its own folder, gone afterwards."""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic

from streamsched.bench.errors import BenchError
from streamsched.bench.load import LIBRDKAFKA_LOG_LEVEL, is_warm_up
from streamsched.cli.errors import say
from streamsched.core.names import TopicNames
from streamsched.kafka import admin
from streamsched.kafka.embedded import EmbeddedKafka

TOPIC_SECONDS_MAX: Final = 60.0
COUNT_SECONDS_MAX: Final = 120.0
_READ_RECORDS: Final = 10_000


@dataclass(frozen=True, slots=True)
class BenchCluster:
    """The broker's address, and a folder for whatever the benchmark writes."""

    bootstrap_servers: str
    folder: Path

    def make_topics(self, names: TopicNames, partitions: int, tenants: Sequence[str]) -> None:
        """All topics of one installation, with the egress topics that it will need.

        The scheduler would create those by itself; that is no part of what is measured.
        """
        admin.apply({"bootstrap.servers": self.bootstrap_servers}, names, partitions)
        wanted = [NewTopic(names.egress(tenant), 1, 1) for tenant in tenants]
        client = self._admin_client()
        for topic, future in client.create_topics(
            wanted, operation_timeout=TOPIC_SECONDS_MAX
        ).items():
            try:
                future.result(TOPIC_SECONDS_MAX)
            except KafkaException as error:
                raise BenchError(
                    f"topic {topic} cannot be created: {error.args[0].str()}"
                ) from error

    def drop_topics(self, names: TopicNames) -> None:
        """Delete what `make_topics` made, so that the broker has no work left with it."""
        client = self._admin_client()
        prefixes = (f"{names.app_id}.", f"{names.app_id}-")
        found = client.list_topics(timeout=TOPIC_SECONDS_MAX).topics
        topics = [topic for topic in found if topic.startswith(prefixes)]
        for future in client.delete_topics(topics, operation_timeout=TOPIC_SECONDS_MAX).values():
            future.result(TOPIC_SECONDS_MAX)

    def end_offsets(self, topic: str, partitions: int) -> int:
        """How many offsets were ever given out on a topic, those of markers included."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap_servers, "group.id": "ends"})
        try:
            places = [TopicPartition(topic, number) for number in range(partitions)]
            return sum(consumer.get_watermark_offsets(p, TOPIC_SECONDS_MAX)[1] for p in places)
        finally:
            consumer.close()

    def check_dispatched(self, names: TopicNames, tenants: Sequence[str], jobs: int) -> None:
        """Raise `BenchError` unless `jobs` committed records, all different, were dispatched."""
        count, ids = self._read_committed([names.egress(tenant) for tenant in tenants])
        if count != jobs or ids != jobs:
            raise BenchError(
                f"{jobs} jobs went in, but a read_committed reader finds {count} records of "
                f"{ids} jobs on the egress topics of {names.app_id}"
            )

    def _admin_client(self) -> AdminClient:
        return AdminClient(
            {"bootstrap.servers": self.bootstrap_servers, "log_level": LIBRDKAFKA_LOG_LEVEL}
        )

    def _read_committed(self, topics: Sequence[str]) -> tuple[int, int]:
        """Committed records and different ids on one-partition topics, warm-up aside."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "group.id": "streamsched-bench-count",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )
        count = 0
        ids: set[bytes] = set()
        ended: set[str] = set()
        deadline = time.monotonic() + COUNT_SECONDS_MAX
        try:
            consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING) for topic in topics])
            while len(ended) < len(topics):
                if time.monotonic() > deadline:
                    raise BenchError(f"counting dispatched jobs took over {COUNT_SECONDS_MAX} s")
                for message in consumer.consume(_READ_RECORDS, 0.2):
                    error = message.error()
                    if error is None:
                        key = message.key()
                        assert isinstance(key, bytes)
                        if not is_warm_up(key):
                            count += 1
                            ids.add(key)
                    elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its name
                        ended.add(message.topic() or "")
                    else:
                        raise BenchError(f"dispatched jobs cannot be read: {error.str()}")
        finally:
            consumer.close()
        return count, len(ids)


@contextmanager
def bench_cluster() -> Iterator[BenchCluster]:
    """A broker of its own for the length of the block. Raises `EmbeddedKafkaError`."""
    folder = Path(tempfile.mkdtemp(prefix="streamsched-bench-"))
    try:
        say("starting Kafka")
        with EmbeddedKafka(folder / "kafka", long_lived=True, progress=say) as kafka:
            yield BenchCluster(kafka.bootstrap_servers, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
