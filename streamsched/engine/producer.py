"""The transactional producer of one partition, and what its failures mean.

The rules come from experiments on a real broker:

* A commit that timed out is committed again, never aborted: an abort would answer a conflict.
* Any exception of `produce()` fails the cycle. Swallowed, the commit would go through without
  that record, and a job would be lost.
* A topic that was deleted and made again has leader epochs that begin anew. librdkafka takes what
  it is told of such a topic for old news, and sends to the former leader for ever: only a new
  client finds the new one.
* A fatal error, fencing included, does not say that somebody else owns the partition: a
  transaction that timed out fences its own producer. The caller asks the group, not the error.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Final, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streamsched.core.cycle import Cycle
from streamsched.core.limits import MESSAGE_BYTES_MAX
from streamsched.engine.librdkafka_log import LIBRDKAFKA_LOG
from streamsched.engine.patience import MESSAGE_TIMEOUT_MS, Patience, transaction_timeout_ms
from streamsched.settings import Settings

BATCH_BYTES_MAX: Final = 500_000
"""Largest batch of several records; a topic that takes less would refuse jobs that fit alone.

Smaller batches mean more requests in flight over many topics, and librdkafka's thread then spends
several times the CPU on them: 36 us a job over 200 topics at 128 KiB, 11 us at this size.
"""

TIMEOUTS_IN_A_ROW_MAX: Final = 2
"""Transactions in a row whose records were not delivered in time, before a new client is tried.

One is what a lost leader costs."""

CALL_SECONDS: Final = 5.0
"""How long one call of the transactional API may block its thread before it is made again."""
METADATA_SECONDS: Final = 1.0
FENCE_SECONDS_MAX: Final = 30.0
"""How long one client asks for its transactional id, before a new one is tried: one that was told
that there are no brokers never asks for them again (ADR 26)."""

COMMIT_SECONDS_BEYOND: Final = 5.0
"""How long the end of a transaction is asked for beyond its timeout, after which the broker ends it
by itself.

A client may hold records for a topic that was just made again which it neither delivers nor gives
up; it can then end nothing, and is given up itself.
"""

RETRY_SECONDS: Final = 0.25

log = structlog.get_logger()


_REFUSALS_OF_TOPICS: Final = frozenset(
    {
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
    }
)
"""Answers to a record that will be the same next time, whatever else is in the transaction."""

_NOT_IN_TIME: Final = frozenset({KafkaError._TIMED_OUT, KafkaError._MSG_TIMED_OUT})  # noqa: SLF001
"""What a commit answers when a record was not delivered within `message.timeout.ms`."""

_REFUSALS_OF_RECORDS: Final = frozenset({KafkaError.INVALID_RECORD, KafkaError.POLICY_VIOLATION})
"""As these, but perhaps not to another record: a schema check or a policy of the broker's looks
at what is in it. What is about size, rights or time is never the fault of a job."""


class Refusal(NamedTuple):
    """Why records for a topic are refused."""

    words: str
    """The broker's."""
    is_of_record: bool
    """Whether it may be for what is in a record, so that others would be taken."""


class CycleFailedError(Exception):
    """The transaction was aborted; the cycle may be run again from the same chunk."""

    def __init__(
        self,
        message: str,
        refusals: Mapping[str, Refusal] | None = None,
        *,
        is_of_rights: bool = False,
    ) -> None:
        """`refusals` are by topic, for topics that will refuse again.

        `is_of_rights` is for a topic that may not be written to; the broker does not say which.
        """
        super().__init__(message)
        self.refusals = refusals or {}
        self.is_of_rights = is_of_rights


class ProducerLostError(Exception):
    """The producer is of no use any more, and whether its last transaction was committed is open.

    A new producer fences this one; what was committed is then read from the changelog.
    """


class IdForbiddenError(Exception):
    """This user may not write under the transactional id of the partition."""


def producer_config(
    settings: Settings, partition: int, message_timeout_ms: int = MESSAGE_TIMEOUT_MS
) -> dict[str, Any]:
    """Options of the producer of one partition, in librdkafka's spelling; ours win."""
    return settings.client_config(
        **{
            "transactional.id": settings.names.transactional_id(partition),
            "transaction.timeout.ms": transaction_timeout_ms(message_timeout_ms),
            "message.timeout.ms": message_timeout_ms,
            "message.max.bytes": MESSAGE_BYTES_MAX,
            "allow.auto.create.topics": False,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 1_048_576,
            "batch.num.messages": 100_000,
            "batch.size": BATCH_BYTES_MAX,
            # The commit flushes at once; until then records are gathered into large batches.
            "linger.ms": 20,
            "retry.backoff.ms": 20,
            "topic.metadata.refresh.fast.interval.ms": 50,
        }
    )


class ConnectedProducer(Producer):
    """A client that looks for its coordinator over connections that stand.

    librdkafka asks for the coordinator as soon as it may, and again after half a second where no
    broker was connected at that moment, which is so in every other start. So metadata is asked for
    before: once over the connection to the address that was configured, and once over the one to
    the broker by its own name, which takes its place.
    """

    topic = ""
    message_timeout_ms = MESSAGE_TIMEOUT_MS

    def init_transactions(self, timeout: float) -> None:  # type: ignore[override]  # by position
        """As the base class does it, up to `METADATA_SECONDS` later while Kafka is away."""
        with suppress(KafkaException):
            for _ in range(2):
                self.list_topics(self.topic, METADATA_SECONDS)
        super().init_transactions(timeout)


def connect(settings: Settings, partition: int, patience: Patience) -> ConnectedProducer:
    """The client of one partition; connects in the background, and fences nobody yet."""
    timeout_ms = patience.message_timeout_ms(partition)
    config = producer_config(settings, partition, timeout_ms)
    config["throttle_cb"] = patience.note_throttling
    client = ConnectedProducer(config, logger=LIBRDKAFKA_LOG)
    client.topic = settings.names.changelog
    client.message_timeout_ms = timeout_ms
    return client


class PartitionProducer:
    """Commits cycles of one partition, each in one transaction."""

    def __init__(
        self,
        client: Producer,
        partition: int,
        changelog: str,
        executor: Executor,
        monotonic: Callable[[], float] = time.monotonic,
        message_timeout_ms: int = MESSAGE_TIMEOUT_MS,
        on_late: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is fenced before `fence`. Calls that block are made in `executor`.

        `message_timeout_ms` is the client's; `on_late` is called where it is given up because it
        could not deliver in that time.
        """
        self._commit_seconds_max = (
            transaction_timeout_ms(message_timeout_ms) / 1000 + COMMIT_SECONDS_BEYOND
        )
        self._on_late = on_late
        self._partition = partition
        self._changelog = changelog
        self._executor = executor
        self._producer = client
        self._monotonic = monotonic
        self._changelog_offset = -1
        self._watches = False
        """Whether every record's fate is looked at; only after a failure, because it costs."""
        self._refusals: dict[str, Refusal] = {}
        self._timeouts_in_a_row = 0

    async def fence(self, is_wanted: Callable[[], bool]) -> bool:
        """End the transaction of whoever had the partition before; first of all, and once.

        Retried while the broker is away or busy with the old transaction, as long as `is_wanted`;
        returns whether it was done. Raises `ProducerLostError` on a fatal error and after
        `FENCE_SECONDS_MAX`, `IdForbiddenError` where this user may not write under the partition's
        id.
        """
        started = self._monotonic()
        while is_wanted():
            try:
                await self._call(self._producer.init_transactions, CALL_SECONDS)
            except KafkaException as exception:
                error = exception.args[0]
                if error.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
                    raise IdForbiddenError(error.str()) from exception
                if error.fatal() or not error.retriable():
                    raise ProducerLostError(f"init_transactions: {error.str()}") from exception
                seconds = self._monotonic() - started
                if seconds > FENCE_SECONDS_MAX:
                    raise ProducerLostError(
                        f"init_transactions: {error.str()}, for {seconds:.0f} s; a new client "
                        "looks for the brokers anew"
                    ) from exception
                log.warning(
                    "waiting for the broker to end the former owner's transaction",
                    partition=self._partition,
                    seconds=round(seconds, 1),
                    error=error.str(),
                )
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return True
        return False

    async def commit(self, cycle: Cycle) -> int:
        """Write everything of `cycle`; returns the offset after its last changelog record.

        Raises `CycleFailedError` or `ProducerLostError`.
        """
        self._changelog_offset = -1
        self._refusals = {}
        try:
            self._producer.begin_transaction()
        except KafkaException as exception:
            raise ProducerLostError(f"begin_transaction: {exception.args[0].str()}") from exception
        try:
            self._produce(cycle)
        except (KafkaException, BufferError, ValueError, TypeError) as exception:
            await self._abort()
            # A topic that the client knows to be forbidden is refused here already.
            raise CycleFailedError(
                f"produce: {exception}", is_of_rights=_is_of_rights(exception)
            ) from exception
        await self._commit()
        self._watches = False
        self._timeouts_in_a_row = 0
        if self._changelog_offset < 0:
            raise ProducerLostError("committed, but the broker did not tell the changelog offset")
        return self._changelog_offset + 1

    def close(self) -> None:
        """Abandon the producer; what is not committed is left to the next owner's fence.

        Does not wait: taking the client down can, so it is left to a thread.
        """
        producer = self._producer
        del self._producer
        self._executor.submit(_take_down, producer)

    def _produce(self, cycle: Cycle) -> None:
        produce = self._producer.produce
        watches = self._watches or "undeliverable" in cycle.counts
        probes = cycle.probes
        for topic, partition, key, value, headers, timestamp_ms in cycle.records:
            produce(
                topic,
                value,
                key,
                partition,
                timestamp=max(timestamp_ms, 0),
                headers=headers,  # type: ignore[arg-type]  # its lists are invariant
                on_delivery=self._on_delivery if watches or topic in probes else None,
            )
        *rest, last = cycle.changelog
        batch: list[dict[str, Any]] = [{"key": key, "value": value} for key, value in rest]
        queued = self._producer.produce_batch(self._changelog, batch, partition=self._partition)
        if queued < len(batch):
            for message in batch:
                if "_error" in message:
                    raise KafkaException(message["_error"])
            raise BufferError(f"only {queued} of {len(batch)} changelog records were queued")
        produce(self._changelog, last[1], last[0], self._partition, on_delivery=self._on_last)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        topic = message.topic()
        if error is None or topic is None:
            return
        if error.code() in _REFUSALS_OF_TOPICS:
            self._refusals[topic] = Refusal(error.str(), is_of_record=False)
        elif error.code() in _REFUSALS_OF_RECORDS:
            self._refusals.setdefault(topic, Refusal(error.str(), is_of_record=True))

    def _on_last(self, error: KafkaError | None, message: Message) -> None:
        offset = message.offset()
        if error is None and offset is not None:
            self._changelog_offset = offset

    async def _commit(self) -> None:
        deadline = self._monotonic() + self._commit_seconds_max
        while True:
            try:
                await self._call(self._producer.commit_transaction, CALL_SECONDS)
            except KafkaException as exception:
                error = exception.args[0]
                if error.txn_requires_abort():
                    await self._abort()
                    self._watches = True
                    self._count_timeouts(error)
                    raise CycleFailedError(
                        f"commit: {error.str()}",
                        self._refusals,
                        is_of_rights=_is_of_rights(exception),
                    ) from exception
                if error.fatal() or not error.retriable():
                    raise ProducerLostError(f"commit: {error.str()}") from exception
                if self._monotonic() > deadline:
                    self._on_late()
                    raise ProducerLostError(f"commit: {error.str()}") from exception
                log.warning(
                    "commit timed out, trying it again",
                    partition=self._partition,
                    error=error.str(),
                )
            else:
                return

    def _count_timeouts(self, error: KafkaError) -> None:
        if error.code() not in _NOT_IN_TIME:
            self._timeouts_in_a_row = 0
            return
        self._timeouts_in_a_row += 1
        if self._timeouts_in_a_row >= TIMEOUTS_IN_A_ROW_MAX:
            self._on_late()
            raise ProducerLostError(
                f"commit: {error.str()}, {self._timeouts_in_a_row} times in a row; a new client "
                "looks for the leaders anew, and waits longer"
            )

    async def _abort(self) -> None:
        deadline = self._monotonic() + self._commit_seconds_max
        while True:
            try:
                await self._call(self._producer.abort_transaction, CALL_SECONDS)
            except KafkaException as exception:
                error = exception.args[0]
                if error.fatal() or not error.retriable() or self._monotonic() > deadline:
                    raise ProducerLostError(f"abort: {error.str()}") from exception
            else:
                return

    async def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """Run a blocking call in a thread; it frees the interpreter's lock while it waits."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, function, *arguments)


def _is_of_rights(error: BaseException) -> bool:
    """Whether a topic may not be written to."""
    return isinstance(error, KafkaException) and bool(
        error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
    )


def _take_down(producer: Producer) -> None:
    """Drop what was not sent; the client goes with its last reference, which is this one."""
    producer.purge(in_queue=True, in_flight=True, blocking=False)
