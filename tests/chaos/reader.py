"""Follows every topic of an installation without a break, through outages and deletions.

A topic that is deleted takes its records along; those that this reader has seen by then stay in
the ledger. A topic that is made again under its old name is entered under a name of its own
(`topic~1`), because its offsets begin anew.
"""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from streamsched.core.names import TopicNames
from streamsched.demo.ledger import Ledger
from streamsched.demo.seen import SeenRecord
from streamsched.kafka import admin

LOOK_SECONDS: Final = 0.5
WAIT_SECONDS: Final = 0.05
AT_ONCE_MAX: Final = 2_000
END_SECONDS_MAX: Final = 60.0
RECENT_MAX: Final = 10_000

Place = tuple[str, int]


class ReaderFault(Exception):
    """What was read cannot be trusted any more; the text says why."""


class Reader:
    """Feeds a ledger from a thread of its own; `lock` is held while the ledger changes."""

    def __init__(self, servers: str, names: TopicNames) -> None:
        """Does not read before `start`."""
        self.ledger = Ledger(names)
        self.lock = threading.Lock()
        self.recent_ms: deque[int] = deque(maxlen=RECENT_MAX)
        """When dispatches were received lately."""
        self.incarnations: dict[str, int] = {}
        """How often each topic has been seen made again."""
        self._names = names
        self._options: dict[str, Any] = {"bootstrap.servers": servers, "log_level": 0}
        self._admin = AdminClient(self._options)
        self._consumer = self._new_consumer()
        self._assigned: dict[Place, str] = {}
        self._from: dict[Place, int] = {}
        """Where the present consumer began that took over from another one."""
        self._begun: set[Place] = set()
        """Places of which a record was read."""
        self._gone: dict[str, str] = {}
        """Deleted topics with the ids that they had."""
        self._deleting: set[str] = set()
        self._deleted: queue.SimpleQueue[tuple[str, str, threading.Event]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._fault: BaseException | None = None
        self._events_seen = 0
        self._told_dispatched: set[str] = set()
        self._thread = threading.Thread(target=self._run, daemon=True, name="chaos-reader")

    def start(self) -> None:
        """Begin to read every topic from its beginning."""
        self._thread.start()

    def check(self) -> None:
        """Raise `ReaderFault` where reading has failed."""
        if self._fault is not None:
            raise ReaderFault(f"the topics could not be followed: {self._fault!r}")

    def expect_deletion(self, topic: str) -> None:
        """From now on errors of the topic are no fault of anybody."""
        self._deleting.add(topic)

    def note_deletion(self, topic: str, topic_id: str) -> None:
        """The topic with this id is gone; another of its name is read from its beginning."""
        done = threading.Event()
        self._deleted.put((topic, topic_id, done))
        if not done.wait(END_SECONDS_MAX):
            self.check()
            raise ReaderFault(f"the reader has not let go of {topic}")

    def pending(self) -> int:
        """Jobs whose end has not been seen; an event tells of those that went with a topic."""
        with self.lock:
            events = self.ledger.events
            for event in events[self._events_seen :]:
                if event.kind == "dispatched":
                    self._told_dispatched.add(event.source)
            self._events_seen = len(events)
            found = self.ledger.open.values()
            return sum(len(sources.keys() - self._told_dispatched) for sources in found)

    def finish(self) -> None:
        """Read up to the ends that all topics have now, and stop. Raises `ReaderFault`."""
        self._stopping.set()
        self._thread.join(END_SECONDS_MAX)
        self.check()
        deadline = time.monotonic() + END_SECONDS_MAX
        try:
            self._follow_topics()
            unread = {
                place: self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=20)[1]
                for place in self._assigned
            }
            while unread:
                self._take(WAIT_SECONDS)
                # The end may be a marker of a transaction, so positions count, not records.
                for position in self._positions(unread):
                    place = (position.topic, position.partition)
                    if position.offset >= unread[place] or unread[place] == 0:
                        del unread[place]
                if time.monotonic() > deadline:
                    raise ReaderFault(f"not read to their ends: {sorted(unread)[:5]}")
        except KafkaException as error:
            raise ReaderFault(f"the topics cannot be read to their ends: {error}") from error

    def close(self) -> None:
        """Stop, whatever was read."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(END_SECONDS_MAX)
        self._consumer.close()

    def _new_consumer(self) -> Consumer:
        return Consumer(
            {
                **self._options,
                "group.id": f"{self._names.app_id}-chaos-reader",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                # A position that the broker does not know is a loss, never a reason to skip.
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 100,
                "reconnect.backoff.max.ms": 500,
                "topic.metadata.refresh.interval.ms": 2_000,
            }
        )

    def _forget_leaders(self) -> None:
        """Go on where this reader is with a consumer that knows nothing of the topics.

        The leader epochs of a topic that is made again begin anew, and librdkafka takes those
        below the ones that it remembers for old news: it would never read such a topic.
        """
        known = self._positions(self._assigned)
        self._from = {(at.topic, at.partition): at.offset for at in known}
        self._consumer.close()
        self._consumer = self._new_consumer()
        self._consumer.assign(known)

    def _positions(self, places: Iterable[Place]) -> list[TopicPartition]:
        """Where to go on in each; a consumer that has read nothing there knows no position."""
        found = self._consumer.position([TopicPartition(*place) for place in places])
        for position in found:
            if position.offset < 0:
                place = (position.topic, position.partition)
                position.offset = self._from.get(place, OFFSET_BEGINNING)
        return found

    def _run(self) -> None:
        try:
            look_at = 0.0
            while not self._stopping.is_set():
                self._let_go()
                if time.monotonic() >= look_at:
                    # Brokers that are away are what this is all about.
                    with contextlib.suppress(KafkaException):
                        self._follow_topics()
                    look_at = time.monotonic() + LOOK_SECONDS
                self._take(WAIT_SECONDS)
        except Exception as error:  # noqa: BLE001 - whoever waits for the thread is told
            self._fault = error

    def _let_go(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                topic, topic_id, done = self._deleted.get_nowait()
                self._gone[topic] = topic_id
                self._deleting.discard(topic)
                places = [place for place in self._assigned if place[0] == topic]
                self._consumer.incremental_unassign([TopicPartition(*place) for place in places])
                for place in places:
                    del self._assigned[place]
                    self._begun.discard(place)
                    self._from.pop(place, None)
                done.set()

    def _follow_topics(self) -> None:
        """Begin to read partitions that were not there before."""
        names = self._names
        wanted = {names.jobs, names.tenant_settings, names.events, names.rejected}
        wanted.add(names.dead_letters)
        added: list[TopicPartition] = []
        incarnations = sum(self.incarnations.values())
        for topic, found in self._consumer.list_topics(timeout=2).topics.items():
            if topic not in wanted and not topic.startswith(names.egress_prefix):
                continue
            if topic in self._gone and not self._is_made_again(topic):
                continue
            for partition in found.partitions:
                if (topic, partition) not in self._assigned:
                    number = self.incarnations.get(topic, 0)
                    self._assigned[topic, partition] = f"{topic}~{number}" if number else topic
                    added.append(TopicPartition(topic, partition, OFFSET_BEGINNING))
        if sum(self.incarnations.values()) > incarnations:
            self._forget_leaders()
        elif added:
            self._consumer.incremental_assign(added)

    def _is_made_again(self, topic: str) -> bool:
        found = admin.topic_ids(self._admin, [topic])
        if found.get(topic, self._gone[topic]) == self._gone[topic]:
            return False
        del self._gone[topic]
        self.incarnations[topic] = self.incarnations.get(topic, 0) + 1
        return True

    def _take(self, wait_seconds: float) -> None:
        first = self._consumer.poll(wait_seconds)
        if first is None:
            return
        messages = [first, *self._consumer.consume(AT_ONCE_MAX, 0)]
        received_ms = time.time_ns() // 1_000_000
        with self.lock:
            before = len(self.ledger.dispatches)
            for message in messages:
                self._enter(message, received_ms)
            self.recent_ms.extend([received_ms] * (len(self.ledger.dispatches) - before))

    def _enter(self, message: Message, received_ms: int) -> None:
        topic, partition = message.topic() or "", message.partition() or 0
        error = message.error()
        if error is None:
            known_as = self._assigned.get((topic, partition))
            if known_as is not None:
                self._begun.add((topic, partition))
                self.ledger.feed(_record(message, known_as, received_ms))
        elif error.code() == KafkaError._AUTO_OFFSET_RESET and topic not in self._deleting:
            if (topic, partition) not in self._begun:
                # Where a topic begins is asked of a broker that may not have heard of it yet.
                self._consumer.incremental_unassign([TopicPartition(topic, partition)])
                self._assigned.pop((topic, partition), None)
                return
            raise ReaderFault(f"{topic}-{partition} has lost records: {error.str()}")
        elif error.fatal():
            raise KafkaException(error)


def _record(message: Message, topic: str, received_ms: int) -> SeenRecord:
    headers: Any = message.headers() or ()
    return SeenRecord(
        topic,
        message.partition() or 0,
        message.offset() or 0,
        message.timestamp()[1],
        message.key(),
        message.value(),
        headers,
        received_ms,
    )
