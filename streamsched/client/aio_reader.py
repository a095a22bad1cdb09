"""Iterating over a tenant's dispatched jobs with asyncio, over confluent-kafka's AIOConsumer."""

import asyncio
from collections import deque
from types import TracebackType
from typing import Final, Self

from confluent_kafka import KafkaException
from confluent_kafka.aio import AIOConsumer

from streamsched.client.dispatched import Dispatched
from streamsched.client.reading import (
    ANSWER_SECONDS_MAX,
    MISSING_TOPIC_WAIT_SECONDS,
    Reading,
    Start,
    was_revoked,
)

FETCH_JOBS_MAX: Final = 100
CONSUMER_THREADS: Final = 2


class AsyncDispatchedReader:
    """An asynchronous iterator over a tenant's dispatched jobs; by `AsyncClient.dispatched`.

    Where it begins is settled on entering `async with`, else at the first job. A job counts as
    handled when the next one is asked for; with a group, one that was not is read again by the
    group's next member. Use it in an `async with` block, or call `close`.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._consumer: AIOConsumer | None = None
        self._start: Start | None = None
        self._fetched: deque[Dispatched] = deque()
        self._last: Dispatched | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Dispatched:
        """The next job. Ends at the timeout; raises `ReadError`."""
        reading = self._reading
        if self._last is not None:
            reading.mark_handled(self._last.topic, self._last.partition, self._last.offset)
            self._last = None
        if self._consumer is None and not self._closed:
            await self._open()
        reading.restart_clock()
        while not self._fetched:
            wait_seconds = reading.wait_seconds()
            await self._store_handled()
            if wait_seconds is None or self._closed:
                raise StopAsyncIteration
            if self._consumer is None:
                await asyncio.sleep(min(wait_seconds, MISSING_TOPIC_WAIT_SECONDS))
                await self._open()
            else:
                await self._fetch(self._consumer, wait_seconds)
        self._last = self._fetched.popleft()
        return self._last

    async def close(self) -> None:
        """Commit what was handled and leave; harmless when repeated."""
        self._closed = True
        self._fetched.clear()
        if self._consumer is not None:
            await self._store_handled()
            consumer, self._consumer = self._consumer, None
            await consumer.close()

    async def _fetch(self, consumer: AIOConsumer, wait_seconds: float) -> None:
        # `consume` waits until it has all it was asked for, so one message is waited for and
        # the rest is what lies there already.
        first = await consumer.poll(wait_seconds)
        if first is None:
            if self._reading.is_silent():
                await self._replace_if_deaf(consumer)
            return
        for message in [first, *await consumer.consume(FETCH_JOBS_MAX, 0)]:
            record = self._reading.read(message)
            if record is not None:
                self._fetched.append(record)

    async def _open(self) -> None:
        start = await asyncio.to_thread(self._reading.find_start)
        if start is None:
            return
        self._start = start
        await self._connect(start)

    async def _connect(self, start: Start) -> None:
        self._consumer = AIOConsumer(start.config, max_workers=CONSUMER_THREADS)
        if start.positions:
            await self._consumer.assign(list(start.positions))
        else:
            await self._consumer.subscribe([start.topic])

    async def _replace_if_deaf(self, consumer: AIOConsumer) -> None:
        """Go on with a new client where no broker answers this one."""
        assert self._start is not None, "there is a client since there is a start"
        try:
            await consumer.list_topics(self._start.topic, ANSWER_SECONDS_MAX)
        except KafkaException:
            reached = await consumer.position(list(self._start.positions))
            await consumer.close()
            if not self._closed:
                await self._connect(self._start.going_on(reached))

    async def _store_handled(self) -> None:
        positions = self._reading.take_handled()
        if self._consumer is None or not positions:
            return
        try:
            await self._consumer.store_offsets(offsets=positions)
        except KafkaException as error:
            if not was_revoked(error):
                raise
