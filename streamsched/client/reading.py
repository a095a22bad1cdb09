"""What both readers of dispatched jobs share: where to begin, what to skip, how far they are."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streamsched.client.connection import Connection
from streamsched.client.dispatched import Dispatched, dispatched_from
from streamsched.client.faults import reading_fault
from streamsched.client.jobs import tenant_key
from streamsched.client.tenants import ReadError, egress_topic_of, partitions_of, read_settings

WAIT_SECONDS: Final = 0.25
"""The longest one call into librdkafka waits, so that an end asked for is seen soon."""

MISSING_TOPIC_WAIT_SECONDS: Final = 0.5

SILENT_SECONDS: Final = 10.0
"""After so long without a record it is seen whether the client hears any broker."""
ANSWER_SECONDS_MAX: Final = 5.0


@dataclass(frozen=True, slots=True)
class Start:
    """How to begin on a topic: with these positions, or as a member of a group (none)."""

    topic: str
    positions: tuple[TopicPartition, ...]
    config: dict[str, Any]

    def going_on(self, reached: Sequence[TopicPartition]) -> "Start":
        """This one for a client in place of another, which had `reached` these positions.

        They are in the order of `positions`; a negative offset is that of a partition not read.
        """
        both = zip(self.positions, reached, strict=True)
        return replace(self, positions=tuple(new if new.offset >= 0 else old for old, new in both))


class Reading:
    """One reader's choices and progress; does no reading itself."""

    def __init__(
        self,
        connection: Connection,
        tenant: str,
        *,
        group: str | None,
        from_beginning: bool | None,
        timeout: float | None,
        topic: str | None,
    ) -> None:
        tenant_key(tenant)
        if timeout is not None and timeout < 0:
            raise ValueError(f"timeout {timeout} is negative: give seconds, or None for no end")
        self.group = group
        self._tenant = tenant
        self._connection = connection
        self._topic = topic
        # A group's workers shall miss nothing that was dispatched before the first of them came.
        self._from_beginning = group is not None if from_beginning is None else from_beginning
        self._timeout_seconds = timeout
        self._idle_since = self._heard_at = time.monotonic()
        self._handled: dict[tuple[str, int], int] = {}

    def find_start(self) -> Start | None:
        """Where to begin, or `None` while the egress topic does not exist.

        An egress topic is made when first needed; a reader that came before it reads all of it.
        Blocks for a few requests. Raises `ReadError`.
        """
        if self._topic is None:
            view = read_settings(self._connection)
            self._topic = egress_topic_of(view, self._tenant, self._connection.names)
        topic = self._topic
        consumer = Consumer(self._connection.consumer_config())
        try:
            partitions = partitions_of(consumer, topic, self._connection.names)
            if not partitions:
                self._from_beginning = True
                return None
            reset = "earliest" if self._from_beginning else "latest"
            config = self._connection.consumer_config(self.group, **{"auto.offset.reset": reset})
            if self.group is not None:
                return Start(topic, (), config)
            positions = []
            for number in partitions:
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), 10)
                offset = low if self._from_beginning else high
                positions.append(TopicPartition(topic, number, offset))
            return Start(topic, tuple(positions), config)
        except KafkaException as error:
            raise self._unreadable(error.args[0], topic) from error
        finally:
            consumer.close()

    @property
    def topic(self) -> str | None:
        """What is read; `None` before it was looked for."""
        return self._topic

    def restart_clock(self) -> None:
        """Begin to count the time without a job."""
        self._idle_since = time.monotonic()

    def wait_seconds(self) -> float | None:
        """How long to wait for the next message; `None` once the timeout has passed."""
        if self._timeout_seconds is None:
            return WAIT_SECONDS
        left = self._idle_since + self._timeout_seconds - time.monotonic()
        if left <= 0:
            return None
        return min(WAIT_SECONDS, left)

    def is_silent(self) -> bool:
        """Whether nothing was read for so long that the client may have gone deaf.

        One that was told that there are no brokers, which a broker says that its controller has
        lost for a moment, says nothing and never asks again (ADR 26). Whoever asks looks then; it
        is so again after as long.
        """
        now = time.monotonic()
        if now - self._heard_at < SILENT_SECONDS:
            return False
        self._heard_at = now
        return True

    def read(self, message: Message) -> Dispatched | None:
        """The tenant's job in a consumed message; `None` for another's. Raises `ReadError`."""
        self._heard_at = time.monotonic()
        error = message.error()
        if error is not None:
            raise self._unreadable(error, message.topic() or self._topic or "")
        record = dispatched_from(message)
        if record is not None and record.tenant == self._tenant:
            return record
        self.mark_handled(message.topic() or "", message.partition() or 0, message.offset() or 0)
        return None

    def _unreadable(self, error: KafkaError, topic: str) -> ReadError:
        fault = reading_fault(error, self._topic or topic, self.group, self._connection.names)
        return ReadError(f"topic {self._topic or topic} cannot be read: {fault}")

    def mark_handled(self, topic: str, partition: int, offset: int) -> None:
        """The record at `offset` needs not be read again by this group."""
        if self.group is not None:
            self._handled[topic, partition] = offset + 1

    def take_handled(self) -> list[TopicPartition]:
        """Positions to store since the last call; empty without a group."""
        positions = [TopicPartition(t, p, offset) for (t, p), offset in self._handled.items()]
        self._handled.clear()
        return positions


def was_revoked(error: KafkaException) -> bool:
    """Whether storing a position failed because another member now has the partition."""
    code = error.args[0].code()
    return code in (KafkaError._STATE, KafkaError._UNKNOWN_PARTITION)  # noqa: SLF001
