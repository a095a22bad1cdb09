"""Reading records that have a header whose name is no UTF-8.

Kafka allows any bytes as the name of a header. aiokafka reads none of a batch in which a name is no
text, so such a stretch of the ingress is read by librdkafka, which refuses the headers alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import methodcaller
from typing import Final, cast

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from streamsched.core.limits import INGRESS_RECORDS_PER_CYCLE_MAX
from streamsched.engine.librdkafka_log import LIBRDKAFKA_LOG
from streamsched.settings import Settings

READ_SECONDS_MAX: Final = 5.0

_HEADERS_OF: Final = methodcaller("headers")
"""Calls from C. Where a name is no UTF-8 the client returns headers and sets an exception as well,
which a call that Python has optimised does not look for: it would come up in some later call."""


@dataclass(frozen=True, slots=True)
class PlainRecord:
    """A record of the ingress; `headers` is `None` where they cannot be read."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] | None


def read_plainly(settings: Settings, partition: int, offset: int) -> list[PlainRecord]:
    """The committed records from `offset` on that are there at once; blocking.

    Empty where the broker does not answer within `READ_SECONDS_MAX`.
    """
    topic = settings.names.jobs
    consumer = Consumer(
        settings.client_config(
            **{
                "group.id": settings.names.group,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
            }
        ),
        logger=LIBRDKAFKA_LOG,
    )
    try:
        consumer.assign([TopicPartition(topic, partition, offset)])
        first = consumer.consume(1, READ_SECONDS_MAX)
        more = consumer.consume(INGRESS_RECORDS_PER_CYCLE_MAX - 1, 0) if first else []
        return [plain_record(message) for message in (*first, *more) if message.error() is None]
    except KafkaException:
        return []
    finally:
        consumer.close()


def plain_record(message: Message) -> PlainRecord:
    """What librdkafka has read, without the headers where it refuses them."""
    _, timestamp = message.timestamp()
    headers: list[tuple[str, bytes | None]] | None
    try:
        # It can also be a dictionary, by its types, but is not.
        headers = cast("list[tuple[str, bytes | None]] | None", _HEADERS_OF(message)) or []
    except (SystemError, UnicodeDecodeError):
        headers = None
    return PlainRecord(message.offset() or 0, timestamp, message.key(), message.value(), headers)
