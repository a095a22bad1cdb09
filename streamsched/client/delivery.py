"""Sending records and learning what became of each: acknowledged, or an error that is raised."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streamsched.client.connection import Connection
from streamsched.client.faults import writing_fault
from streamsched.client.jobs import Job, Record, Submitted

POLL_SECONDS: Final = 0.1
CLOSE_SECONDS_MAX: Final = 35.0
"""A little longer than the delivery timeout, so that close ends with every record decided."""

QUEUE_FULL_WAIT_SECONDS: Final = 0.01

_REMEDIES: Final = {
    KafkaError.UNKNOWN_TOPIC_OR_PART: "create the topics with `streamsched topics apply`",
    KafkaError._UNKNOWN_TOPIC: "create the topics with `streamsched topics apply`",  # noqa: SLF001
    KafkaError._MSG_TIMED_OUT: "check the address and that the brokers are up",  # noqa: SLF001
    KafkaError._PURGE_QUEUE: "the client was closed first; submit it again",  # noqa: SLF001
    KafkaError._PURGE_INFLIGHT: (  # noqa: SLF001
        "the client was closed first; submit it again under the same id"
    ),
    KafkaError.MSG_SIZE_TOO_LARGE: (
        "raise the topic's max.message.bytes with `streamsched topics apply`"
    ),
}


_OF_THE_PRODUCER: Final = frozenset(
    {KafkaError._PURGE_QUEUE, KafkaError._MSG_TIMED_OUT, KafkaError._FATAL}  # noqa: SLF001
)
"""What records are told whose producer cannot go on; the reason was told of the producer."""


class DeliveryError(Exception):
    """A record was not acknowledged by the broker.

    After a time-out it may still have been stored: submitting the job again under the same id
    replaces it rather than doubling it while it is pending. `id` is `None` for a settings
    record; `code` is librdkafka's name of the error.
    """

    def __init__(self, record: Record, error: KafkaError) -> None:
        self.tenant = record.tenant
        self.id = record.id
        self.topic = record.topic
        self.code = error.name()
        self.reason = error.str()
        what = (
            f"the settings of tenant {record.tenant!r} were"
            if record.id is None
            else f"job {record.id!r} of tenant {record.tenant!r} was"
        )
        remedy = _REMEDIES.get(error.code())
        if error.fatal():
            remedy = "this client cannot go on; make a new one"
        remedy = writing_fault(error, record.topic) or remedy
        super().__init__(
            f"{what} not delivered to {record.topic}: {self.reason}"
            + (f"; {remedy}" if remedy else "")
        )


@dataclass(frozen=True, slots=True)
class FailedJob:
    """One job of a `submit_many` that did not go through; `index` is its place, from 0."""

    index: int
    job: Job
    error: DeliveryError | ValueError


class DeliveryErrors(Exception):
    """Some jobs of a `submit_many` were not delivered; `failures` lists each, in order.

    `taken` jobs were taken from the iterable, `submitted` of them are stored. Taking ends early
    when too many fail, so that a broker that is gone does not eat an endless iterable.
    """

    def __init__(self, failures: list[FailedJob], taken: int) -> None:
        self.failures = sorted(failures, key=lambda failure: failure.index)
        self.taken = taken
        self.submitted = taken - len(failures)
        super().__init__(
            f"{len(failures)} of {taken} jobs were not submitted; the first, number "
            f"{self.failures[0].index}: {self.failures[0].error}"
        )


OnDone = Callable[[Submitted | DeliveryError], None]
"""Called once for each record, from the polling thread; it must return at once."""


class Deliveries:
    """A producer and the thread that serves its delivery reports.

    Both clients stand on it. confluent-kafka's own AIOProducer sends batches, and its batches
    carry no headers (`produce(headers=…)` raises NotImplementedError), while header mode lives
    in headers; so asyncio gets its futures from these delivery reports as well.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._producer: Producer | None = None
        self._poller: threading.Thread | None = None
        self._stop = threading.Event()
        self._fatal: KafkaError | None = None
        """Why this producer cannot go on, whatever it sends."""

    def try_send(self, record: Record, on_done: OnDone) -> bool:
        """Queue `record`; False when the queue is full, and then `on_done` is never called.

        Raises `RuntimeError` once closed.
        """

        def report(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                on_done(DeliveryError(record, self._cause(error)))
            else:
                partition, offset = message.partition(), message.offset()
                assert partition is not None
                assert offset is not None
                on_done(Submitted(record.tenant, record.id or "", partition, offset))

        try:
            # Under the lock, so that nothing is queued behind the back of `close`.
            with self._lock:
                self._started().produce(
                    record.topic,
                    record.value,
                    record.key,
                    headers=[*record.headers],
                    on_delivery=report,
                )
        except BufferError:
            return False
        except KafkaException as error:
            on_done(DeliveryError(record, self._cause(error.args[0])))
        return True

    def future_of(self, record: Record) -> "Future[Submitted] | None":
        """As `try_send`, as a future; `None` when the queue is full."""
        future: Future[Submitted] = Future()
        # A sent record cannot be called back, so cancelling the waiter leaves the future alone.
        future.set_running_or_notify_cancel()

        def on_done(result: Submitted | DeliveryError) -> None:
            if isinstance(result, DeliveryError):
                future.set_exception(result)
            else:
                future.set_result(result)

        return future if self.try_send(record, on_done) else None

    def deliver(self, record: Record) -> Submitted:
        """Send and wait for the acknowledgement. Raises `DeliveryError`."""
        while (future := self.future_of(record)) is None:
            time.sleep(QUEUE_FULL_WAIT_SECONDS)
        return future.result()

    def close(self) -> None:
        """Wait for what is under way, fail what is left after that, and stop; may be repeated."""
        with self._lock:
            self._stop.set()
            producer, poller = self._producer, self._poller
            self._producer = None
        if producer is None or poller is None:
            return
        poller.join()
        with suppress(KafkaException):
            if producer.flush(CLOSE_SECONDS_MAX):
                producer.purge()
                producer.flush(1.0)

    def _started(self) -> Producer:
        if self._stop.is_set():
            raise RuntimeError("this client is closed; make a new one")
        if self._producer is None:
            self._producer = Producer(self._connection.producer_config())
            self._poller = threading.Thread(
                target=self._poll, args=(self._producer,), name="streamsched-client", daemon=True
            )
            self._poller.start()
        return self._producer

    def _cause(self, error: KafkaError) -> KafkaError:
        """Why a record was not delivered: what befell the producer, where that is the reason."""
        if self._fatal is None or error.code() not in _OF_THE_PRODUCER:
            return error
        return self._fatal

    def _poll(self, producer: Producer) -> None:
        while not self._stop.is_set():
            try:
                producer.poll(POLL_SECONDS)
            except KafkaException as error:
                # Raised once; after it the client gives up what waits, and each record is told.
                self._fatal = error.args[0]
