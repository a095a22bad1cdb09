"""Reads all topics of an installation at read_committed into a ledger, as the checker's eyes."""

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.cimpl import Message

from streamsched.core.names import TopicNames
from streamsched.demo.ledger import Ledger
from streamsched.demo.seen import SeenRecord

LOOK_FOR_TOPICS_SECONDS: Final = 0.5
WAIT_SECONDS: Final = 0.05
AT_ONCE_MAX: Final = 1_000
END_SECONDS_MAX: Final = 30.0
STOP_SECONDS_MAX: Final = 15.0


class ReaderError(Exception):
    """The topics cannot be read; the text says why."""


class TopicReader:
    """Follows the topics in a thread of its own; `lock` is held while the ledger changes."""

    def __init__(self, bootstrap_servers: str, names: TopicNames) -> None:
        """Does not read before `start`."""
        self.ledger = Ledger(names)
        self.lock = threading.Lock()
        self._names = names
        self._servers = bootstrap_servers
        self._next_offset: dict[tuple[str, int], int] = {}
        self._stopping = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="topic-reader")

    def start(self) -> None:
        """Begin to read, from the beginning of every topic."""
        self._thread.start()

    def check(self) -> None:
        """Raise `ReaderError` where reading has failed."""
        if self._fault is not None:
            raise ReaderError(f"the demo's checker cannot read the topics: {self._fault}")

    def stop(self) -> None:
        """Stop following; harmless when repeated."""
        self._stopping.set()
        if self._thread.ident is not None:
            # Should Kafka be gone, what it was asked for would be waited for much longer.
            self._thread.join(STOP_SECONDS_MAX)

    def read_to_end(self) -> None:
        """After `stop`: read what is left, up to the present end of every topic.

        Raises `ReaderError` where that does not succeed.
        """
        self.check()
        consumer = self._consumer(**{"enable.partition.eof": True})
        try:
            self._find_topics(consumer)
            unread = set(self._next_offset)
            deadline = time.monotonic() + END_SECONDS_MAX
            while unread:
                if time.monotonic() > deadline:
                    raise ReaderError(f"not read to their ends: {sorted(unread)[:3]}")
                self._take(consumer, WAIT_SECONDS, unread.discard)
        except KafkaException as error:
            raise ReaderError(f"the topics cannot be read: {error}") from error
        finally:
            consumer.close()

    def _consumer(self, **extra: Any) -> Consumer:
        consumer = Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": f"{self._names.app_id}-demo-checker",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                # Receipt is what lateness is measured by, so nothing may lie in a queue for long.
                "fetch.wait.max.ms": 100,
                "log_level": 0,
                **extra,
            }
        )
        if self._next_offset:
            consumer.assign([TopicPartition(*at, offset) for at, offset in self._resume()])
        return consumer

    def _resume(self) -> list[tuple[tuple[str, int], int]]:
        return list(self._next_offset.items())

    def _run(self) -> None:
        try:
            consumer = self._consumer()
            try:
                look_at = 0.0
                while not self._stopping.is_set():
                    if time.monotonic() >= look_at:
                        self._find_topics(consumer)
                        look_at = time.monotonic() + LOOK_FOR_TOPICS_SECONDS
                    self._take(consumer, WAIT_SECONDS, lambda _: None)
            finally:
                consumer.close()
        except Exception as error:  # noqa: BLE001 - whoever waits for the thread is told
            self._fault = error

    def _find_topics(self, consumer: Consumer) -> None:
        """Begin to read partitions that were not there before."""
        names = self._names
        wanted = {names.jobs, names.tenant_settings, names.events, names.rejected}
        wanted |= {names.dead_letters, *self.ledger.egress_topics()}
        added: list[TopicPartition] = []
        for topic, found in consumer.list_topics(timeout=10).topics.items():
            if topic not in wanted and not topic.startswith(names.egress_prefix):
                continue
            for partition in found.partitions:
                if (topic, partition) not in self._next_offset:
                    self._next_offset[topic, partition] = OFFSET_BEGINNING
                    added.append(TopicPartition(topic, partition, OFFSET_BEGINNING))
            self.ledger.reading_since_ms.setdefault(topic, _now_ms())
        if added:
            consumer.incremental_assign(added)

    def _take(
        self, consumer: Consumer, wait_seconds: float, at_end: Callable[[tuple[str, int]], None]
    ) -> None:
        """Enter what is there into the ledger; `at_end` is told of partitions without more."""
        first = consumer.poll(wait_seconds)
        if first is None:
            return
        messages = [first, *consumer.consume(AT_ONCE_MAX, 0)]
        received_ms = _now_ms()
        with self.lock:
            for message in messages:
                error = message.error()
                place = (message.topic() or "", message.partition() or 0)
                if error is None:
                    record = _record(message, place, received_ms)
                    self._next_offset[place] = record.offset + 1
                    self.ledger.feed(record)
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                    at_end(place)
                elif not error.retriable() and error.fatal():
                    raise KafkaException(error)


def _record(message: Message, place: tuple[str, int], received_ms: int) -> SeenRecord:
    headers: Any = message.headers() or ()
    return SeenRecord(
        *place,
        message.offset() or 0,
        message.timestamp()[1],
        message.key(),
        message.value(),
        headers,
        received_ms,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
