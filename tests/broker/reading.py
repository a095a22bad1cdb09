"""Reading topics from their beginning to their end, committed or not."""

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from streamsched.core import headers as h
from tests.connecting import client_options

SECONDS_MAX = 60.0
GROUP = "test-reader"

_AT_END = {
    KafkaError._PARTITION_EOF,
    # Deleted since the topics were listed.
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}


def read_topics(
    kafka: str, topics: Sequence[str], *, committed: bool = True, seconds: float = SECONDS_MAX
) -> list[Message]:
    """All records of `topics` up to the ends they have now; a missing topic has none."""
    consumer = Consumer(
        {
            **client_options(kafka),
            "group.id": GROUP,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed" if committed else "read_uncommitted",
        }
    )
    ends = _ends(consumer, topics)
    consumer.assign([TopicPartition(*place, OFFSET_BEGINNING) for place in ends])
    records: list[Message] = []
    deadline = time.monotonic() + seconds
    while ends:
        if time.monotonic() > deadline:
            raise AssertionError(f"{topics} not read to their ends within {seconds:.0f} s")
        for message in consumer.consume(5_000, 0.1):
            place = (message.topic() or "", message.partition() or 0)
            error = message.error()
            if error is None:
                records.append(message)
            elif error.code() in _AT_END:
                ends.pop(place, None)
        # A topic that is being written to may never show an end of its own.
        for position in consumer.position([TopicPartition(*place) for place in ends]):
            place = (position.topic, position.partition)
            if position.offset >= ends[place]:
                del ends[place]
    consumer.close()
    return records


def _ends(consumer: Consumer, topics: Sequence[str]) -> dict[tuple[str, int], int]:
    """The end of each partition that holds anything."""
    known = consumer.list_topics(timeout=10).topics
    ends = {}
    for topic in topics:
        for partition in known[topic].partitions if topic in known else ():
            # A topic that was made this moment has no leader, one deleted this moment no end.
            with contextlib.suppress(KafkaException):
                place = TopicPartition(topic, partition)
                low, high = consumer.get_watermark_offsets(place, timeout=10)
                if high > low:
                    ends[topic, partition] = high
    return ends


def any_record(_message: Message) -> bool:
    """Picks every record."""
    return True


def await_records(
    kafka: str,
    topics: Sequence[str],
    count: int,
    *,
    only: Callable[[Message], bool] = any_record,
    seconds: float = SECONDS_MAX,
    tell: Callable[[], str] = lambda: "",
) -> list[Message]:
    """All committed records of `topics` that `only` picks, once there are at least `count`."""
    deadline = time.monotonic() + seconds
    while True:
        found = [message for message in read_topics(kafka, topics) if only(message)]
        if len(found) >= count:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(
                f"{len(found)} of {count} records on {topics} within {seconds:.0f} s\n{tell()}"
            )
        time.sleep(0.1)


def read_events(kafka: str, topic: str) -> list[dict[str, Any]]:
    """All committed events, as decoded JSON."""
    return [json.loads(message.value() or b"") for message in read_topics(kafka, [topic])]


def headers_of(message: Message) -> list[tuple[str, bytes | None]]:
    """All headers in their order, with their bytes."""
    given: Any = message.headers() or []
    return list(given)


def header(message: Message, name: str) -> str | None:
    """The text of a header, `None` where it is not there."""
    for key, value in headers_of(message):
        if key == name:
            return None if value is None else value.decode()
    return None


def job_id(message: Message) -> str:
    """The id of a dispatched job."""
    return header(message, h.ID) or ""


def dispatched_at_ms(message: Message) -> int:
    """When a job left, by its header."""
    return int(header(message, h.DISPATCHED_AT) or "")


def lateness_ms(message: Message) -> int:
    """How long after its due time a job left."""
    return dispatched_at_ms(message) - int(header(message, h.DUE_AT) or "")
