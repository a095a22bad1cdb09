"""Reading topics from their beginning to their end, committed or not."""

import time
from collections.abc import Sequence

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition


def read_topics(
    kafka: str, topics: Sequence[str], *, committed: bool = True, seconds: float = 60.0
) -> list[Message]:
    """All records of `topics` up to the ends they have now."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": "test-reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed" if committed else "read_uncommitted",
        }
    )
    known = consumer.list_topics(timeout=10).topics
    wanted = [
        TopicPartition(topic, partition, OFFSET_BEGINNING)
        for topic in topics
        if topic in known
        for partition in known[topic].partitions
    ]
    consumer.assign(wanted)
    records: list[Message] = []
    ended: set[tuple[str, int]] = set()
    deadline = time.monotonic() + seconds
    while len(ended) < len(wanted):
        if time.monotonic() > deadline:
            raise AssertionError(f"{topics} not read to their ends within {seconds:.0f} s")
        for message in consumer.consume(5_000, 0.1):
            error = message.error()
            if error is None:
                records.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                ended.add((message.topic() or "", message.partition() or 0))
    consumer.close()
    return records


def header(message: Message, name: str) -> str | None:
    """The text of a header, `None` where it is not there."""
    for key, value in message.headers() or []:
        if key == name:
            return value.decode() if isinstance(value, bytes) else value
    return None
