"""What a scheduler process touches of Kafka, with the faces of the real clients.

Calls that block a thread are generators: they yield the seconds that they block for, and a
process can die, freeze or be overtaken at each of those points.
"""

from collections.abc import Callable, Generator
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from streamsched.engine.changelog import READ_SECONDS_MAX, ChangelogError, Stretch
from tests.sim.broker import Broker
from tests.sim.faults import Faults
from tests.sim.log import ABORTED, COMMITTED, Transaction

MISSING = "topic is missing"
POISON = b"poison"
"""A payload that the broker's check refuses on every egress topic."""

FENCED_AFTER_MISSING = 0.17
"""How often the abort after a missing topic ends with a fenced producer, as tried on a broker."""

Blocks = Generator[float, None, None]
"""A blocking call: the seconds it waits between its effects."""

Effect = Callable[[str], None]
"""Called before each effect; raises `Died` where the process ends there."""


def failure(
    code: int, reason: str, *, fatal: bool = False, retriable: bool = False, aborts: bool = False
) -> KafkaException:
    """What confluent-kafka raises."""
    error = KafkaError(code, reason, fatal=fatal, retriable=retriable, txn_requires_abort=aborts)
    return KafkaException(error)


class Delivered:
    """The part of a `Message` that delivery reports are asked for."""

    def __init__(self, topic: str, offset: int | None) -> None:
        self._topic = topic
        self._offset = offset

    def topic(self) -> str:
        return self._topic

    def offset(self) -> int | None:
        return self._offset


class SimProducer:
    """`confluent_kafka.Producer` with a transactional id."""

    def __init__(self, broker: Broker, faults: Faults, effect: Effect, identity: str) -> None:
        self.identity = identity
        self.epoch = -1
        self._broker = broker
        self._faults = faults
        self._effect = effect
        self._fatal: KafkaException | None = None
        self._state = "new"
        self._transaction: Transaction | None = None
        self._queue: list[tuple[Any, ...]] = []
        self._is_decided = False
        self._is_doubtful = False

    def made_anew(self) -> "SimProducer":
        """Another instance under the same transactional id."""
        return SimProducer(self._broker, self._faults, self._effect, self.identity)

    def _latency(self) -> float:
        return self._faults.rng.random() * self._faults.latency_seconds_max

    def _fence_off(self) -> KafkaException:
        self._fatal = failure(
            KafkaError._FENCED, "This instance has been fenced by a newer instance", fatal=True
        )
        return self._fatal

    def _check(self) -> None:
        if self._fatal is not None:
            raise self._fatal
        if not self._broker.is_current(self.identity, self.epoch):
            raise self._fence_off()

    # --- transactions ----------------------------------------------------------------------

    def init_transactions(self, timeout: float) -> Blocks:
        if self._fatal is not None:
            raise self._fatal
        if self._state != "new":
            raise failure(KafkaError._STATE, "transactions were already initialised")
        yield self._latency()
        if self._faults.strikes("init is busy"):
            yield timeout
            raise failure(
                KafkaError.CONCURRENT_TRANSACTIONS, "the former one is ended", retriable=True
            )
        self._effect("fence")
        left = timeout
        while (epoch := self._broker.initialise(self.identity)) is None:
            yield 0.01
            left -= 0.01
            if left <= 0:
                raise failure(KafkaError._TIMED_OUT, "no answer", retriable=True)
        self.epoch = epoch
        self._state = "ready"
        yield self._latency()

    def begin_transaction(self) -> None:
        if self._fatal is not None:
            raise self._fatal
        if self._state != "ready":
            raise failure(KafkaError._STATE, f"begin_transaction in state {self._state}")
        self._effect("begin")
        self._state = "open"
        self._transaction = self._broker.begin(self.identity)
        self._queue = []
        self._is_decided = self._is_doubtful = False

    def produce(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int = -1,
        on_delivery: Callable[[Any, Any], None] | None = None,
        timestamp: int = 0,
        headers: list[tuple[str, bytes | None]] | None = None,
    ) -> None:
        if headers is not None and type(headers) is not list:
            raise TypeError("expected headers to be a list")
        if self._faults.strikes("produce raises"):
            if self._faults.rng.random() < 0.5:
                raise BufferError("Local: Queue full")
            raise failure(KafkaError._MSG_TIMED_OUT, "produce failed")
        self._queue.append((topic, partition, key, value, headers or [], timestamp, on_delivery))

    def produce_batch(self, topic: str, messages: list[dict[str, Any]], partition: int = -1) -> int:
        if messages and self._faults.strikes("batch is cut"):
            messages = messages[: len(messages) // 2]
        for message in messages:
            self._queue.append((topic, partition, message["key"], message["value"], [], 0, None))
        return len(messages)

    def commit_transaction(self, timeout: float) -> Blocks:
        yield self._latency()
        transaction = self._open_transaction()
        self._check()
        if self._is_decided:
            # An earlier call was carried out, but its answer was lost.
            self._state = "ready"
            return
        if self._state == "failed":
            raise failure(KafkaError._STATE, "the transaction has failed", aborts=True)
        yield from self._wait_for_markers(timeout)
        yield from self._flush(transaction)
        if self._faults.strikes("transaction times out"):
            yield self._broker.transaction_seconds + 1
        yield self._latency()
        if self._faults.strikes("commit is lost"):
            yield from self._no_answer_to_commit(timeout)
        self._effect("commit")
        self._check()
        if self._faults.strikes("commit is refused"):
            self._state = "failed"
            raise failure(KafkaError.UNKNOWN, "commit refused", aborts=True)
        if transaction.places:
            self._broker.end(self.identity, transaction, COMMITTED)
        self._is_decided = True
        if self._faults.strikes("answer to commit is lost"):
            yield from self._no_answer_to_commit(timeout)
        if self._faults.strikes("answer to commit is late"):
            yield self._faults.rng.random() * timeout
        yield self._latency()
        self._state = "ready"

    def abort_transaction(self, timeout: float) -> Blocks:
        yield self._latency()
        transaction = self._open_transaction()
        if self._is_doubtful:
            raise failure(KafkaError._CONFLICT, "a commit is under way")
        self._check()
        if self._faults.strikes("abort is lost"):
            yield timeout
            raise failure(KafkaError._TIMED_OUT, "abort: no answer", retriable=True)
        self._effect("abort")
        if transaction.places:
            self._broker.end(self.identity, transaction, ABORTED)
        self._queue = []
        self._state = "ready"
        yield self._latency()

    def purge(self, *, in_queue: bool, in_flight: bool, blocking: bool) -> None:
        del in_queue, in_flight, blocking
        self._queue = []

    # --- inside ----------------------------------------------------------------------------

    def _no_answer_to_commit(self, timeout: float) -> Blocks:
        self._is_doubtful = True
        yield timeout
        raise failure(KafkaError._TIMED_OUT, "commit: no answer", retriable=True)

    def _wait_for_markers(self, timeout: float) -> Blocks:
        """The coordinator takes no new transaction before the last one is ended everywhere."""
        waited = 0.0
        while self._broker.is_busy(self.identity):
            yield 0.005
            waited += 0.005
            if waited > timeout:
                raise failure(KafkaError._TIMED_OUT, "no answer", retriable=True)

    def _open_transaction(self) -> Transaction:
        if self._fatal is not None:
            raise self._fatal
        if self._transaction is None or self._state not in {"open", "failed"}:
            raise failure(KafkaError._STATE, f"no transaction is open, state {self._state}")
        return self._transaction

    def _flush(self, transaction: Transaction) -> Blocks:
        """Send what was queued; the records of bad topics fail, and with them the transaction."""
        queue, self._queue = self._queue, []
        reports: list[tuple[Any, KafkaError | None, Delivered]] = []
        faults: set[str] = set()
        half = len(queue) // 2
        for number, record in enumerate(queue):
            if number in {0, half}:
                self._effect("write")
                self._check()
            error, offset = self._send(transaction, record)
            if error is not None:
                faults.add(error.str())
            if record[-1] is not None:
                reports.append((record[-1], error, Delivered(record[0], offset)))
            if number == half:
                yield self._latency()
                self._check()
        if MISSING in faults:
            yield self._faults.missing_topic_seconds
        for told, error, message in reports:
            told(error, message)
        if faults:
            self._state = "failed"
            if MISSING in faults and self._faults.rng.random() < FENCED_AFTER_MISSING:
                raise self._fence_off()
            raise failure(KafkaError._INCONSISTENT, ", ".join(sorted(faults)), aborts=True)

    def _send(
        self, transaction: Transaction, record: tuple[Any, ...]
    ) -> tuple[KafkaError | None, int | None]:
        """Write one record to the log; its error or its offset."""
        topic, partition, key, value, headers, timestamp, _ = record
        found = self._broker.topics.get(topic)
        if found is None or found.missing:
            return KafkaError(KafkaError._MSG_TIMED_OUT, MISSING), None
        if found.refuses:
            return KafkaError(KafkaError.INVALID_RECORD, "records are refused"), None
        if value == POISON and topic not in self._broker.takes_poison:
            return KafkaError(KafkaError.INVALID_RECORD, "the record is refused"), None
        if not transaction.places:
            self._broker.register(self.identity, transaction)
        log = self._broker.place(topic, partition, key)
        return None, self._broker.append(log, key, value, headers, timestamp, transaction)


class SimChangelog:
    """`ChangelogSource` on the simulated log."""

    def __init__(
        self, broker: Broker, faults: Faults, effect: Effect, topic: str, partition: int
    ) -> None:
        self._broker = broker
        self._log = broker.log(topic, partition)
        self._faults = faults
        self._effect = effect
        self._position = 0

    def bounds(self) -> tuple[int, int]:
        if self._faults.strikes("changelog is unreadable"):
            raise ChangelogError("changelog: no answer")
        return self._log.low, self._log.stable

    def seek(self, offset: int) -> None:
        self._position = offset

    def read(self) -> Stretch | None:
        self._effect("replay")
        if self._faults.strikes("changelog is unreadable"):
            raise ChangelogError("changelog: no answer")
        most = self._faults.rng.choice((1, 3, 10, 1_000))
        start = self._position
        found, self._position = self._log.read(start, most)
        if self._position == start:
            self._broker.loop.blocks_seconds += self._faults.rng.random() * READ_SECONDS_MAX
            return None
        return Stretch([(entry.key or b"", entry.value) for entry in found], self._position)

    def close(self) -> None:
        pass
