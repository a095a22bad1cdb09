"""Iterating over a tenant's dispatched jobs, blocking."""

import time
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaException

from streamsched.client.dispatched import Dispatched
from streamsched.client.reading import (
    ANSWER_SECONDS_MAX,
    MISSING_TOPIC_WAIT_SECONDS,
    Reading,
    Start,
    was_revoked,
)


class DispatchedReader:
    """An iterator over a tenant's dispatched jobs; made by `Client.dispatched`.

    Where it begins is settled when it is made, not at the first job. A job counts as handled
    when the next one is asked for; with a group, one that was not is read again by the group's
    next member. Use it in a `with` block, or call `close`.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._consumer: Consumer | None = None
        self._start: Start | None = None
        self._last: Dispatched | None = None
        self._closed = False
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Dispatched:
        """The next job. Ends at the timeout; raises `ReadError`."""
        reading = self._reading
        if self._last is not None:
            reading.mark_handled(self._last.topic, self._last.partition, self._last.offset)
            self._last = None
            self._store_handled()
        reading.restart_clock()
        while not self._closed and (wait_seconds := reading.wait_seconds()) is not None:
            if self._consumer is None:
                time.sleep(min(wait_seconds, MISSING_TOPIC_WAIT_SECONDS))
                self._open()
                continue
            message = self._consumer.poll(wait_seconds)
            if message is None:
                if reading.is_silent():
                    self._replace_if_deaf(self._consumer)
                continue
            self._last = reading.read(message)
            if self._last is not None:
                return self._last
        self._store_handled()
        raise StopIteration

    @property
    def missing_topic(self) -> str | None:
        """The topic that is waited for because it does not exist; `None` while one is read.

        An egress topic is made before the tenant's first job is due.
        """
        return self._reading.topic if self._consumer is None and not self._closed else None

    def close(self) -> None:
        """Commit what was handled and leave; harmless when repeated."""
        self._closed = True
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            self._store_handled(consumer)
            consumer.close()

    def _open(self) -> None:
        start = self._reading.find_start()
        if start is None:
            return
        self._start = start
        self._connect(start)

    def _connect(self, start: Start) -> None:
        self._consumer = Consumer(start.config)
        if start.positions:
            self._consumer.assign(list(start.positions))
        else:
            self._consumer.subscribe([start.topic])

    def _replace_if_deaf(self, consumer: Consumer) -> None:
        """Go on with a new client where no broker answers this one."""
        assert self._start is not None, "there is a client since there is a start"
        try:
            consumer.list_topics(self._start.topic, ANSWER_SECONDS_MAX)
        except KafkaException:
            reached = consumer.position(list(self._start.positions))
            consumer.close()
            if not self._closed:
                self._connect(self._start.going_on(reached))

    def _store_handled(self, consumer: Consumer | None = None) -> None:
        consumer = consumer or self._consumer
        positions = self._reading.take_handled()
        if consumer is None or not positions:
            return
        try:
            consumer.store_offsets(offsets=positions)
        except KafkaException as error:
            if not was_revoked(error):
                raise
