"""Hands on what comes in on the ingress topics of single tenants.

Schedulers that do so share these topics in a group of their own. A thread reads what is there,
and one transaction moves it on and the group's offsets with it. What has failed is read again by a
new member with a new producer: whatever became of the old transaction, the broker hands out offsets
only when it has ended, and takes them only from the group's present members (KIP-447).
"""

import re
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from streamsched.core.cycle import OutRecord
from streamsched.core.limits import (
    CYCLE_BYTES_MAX,
    INGRESS_RECORDS_PER_CYCLE_MAX,
    MESSAGE_BYTES_MAX,
)
from streamsched.core.tenant_ingress import TenantIngress
from streamsched.engine.librdkafka_log import LIBRDKAFKA_LOG
from streamsched.engine.metrics import Metrics
from streamsched.engine.unnamable import plain_record
from streamsched.kafka.connection import KafkaProblem, error_text
from streamsched.kafka.rights import Kind, Operation, Resource, lacks
from streamsched.settings import Settings

POLL_SECONDS: Final = 0.2
RETRY_SECONDS: Final = 1.0
CALL_SECONDS: Final = 10.0
"""How long one call of the transactional API may take before all is begun anew."""

STOP_SECONDS_MAX: Final = 2.0
TRANSACTION_TIMEOUT_MS: Final = 10_000
NEW_TOPICS_SECONDS: Final = 2
"""How often topics are looked for that were not there before."""

LOOK_SECONDS: Final = 5.0
"""How often it is seen whether a broker answers and, while this process reads none of the topics,
whether a right is missing: one that may not be seen is to librdkafka as if it did not exist."""

ANSWER_SECONDS_MAX: Final = 5.0

BUFFERED_KIB: Final = 16 * 1024
"""What the client has ready at most."""

_CODES_OF_RIGHTS: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        # What a call says whose transaction has failed already, of a refused record for one.
        KafkaError._STATE,  # noqa: SLF001 - its public name
    }
)
"""Of failures for which a right may be missing."""

log = structlog.get_logger()


class TenantTopics:
    """A thread that admits or rejects every record of these topics, exactly once."""

    def __init__(
        self,
        settings: Settings,
        partitions: int,
        metrics: Metrics,
        clock_ms: Callable[[], int],
        missing_rights: Callable[[], Sequence[str]],
    ) -> None:
        """Reads nothing before `start`. `partitions` of the ingress topic.

        `missing_rights` blocks, and gives a sentence for each right that this needs and lacks.
        """
        self._settings = settings
        self._core = TenantIngress(settings.names, partitions)
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._missing_rights = missing_rights
        self._looked_at = 0.0  # monotonic
        self._told: set[str] = set()
        """Faults of reading that were told, until all goes well again."""
        self._read: list[Message] = []
        """Read, and not handed on yet."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tenant-topics", daemon=True)

    def start(self) -> None:
        """Join the group."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the transaction under way and leave; blocks for `STOP_SECONDS_MAX` at most."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS_MAX)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._read.clear()
            consumer, producer = self._clients()
            try:
                producer.init_transactions(CALL_SECONDS)
                while not self._stopping.is_set():
                    self._hand_on(consumer, producer)
                    self._look_around(consumer)
            except (KafkaException, BufferError) as error:
                self._metrics.tenant_topics_failures.inc()
                log.warning(
                    "ingress topics of tenants are read again from the last commit",
                    error=self._fault(error),
                )
                with suppress(KafkaException):
                    producer.abort_transaction(CALL_SECONDS)
                self._stopping.wait(RETRY_SECONDS)
            finally:
                consumer.close()

    def _clients(self) -> tuple[Consumer, Producer]:
        settings = self._settings
        consumer = Consumer(
            settings.client_config(
                **{
                    "group.id": settings.names.tenant_jobs_group,
                    "enable.auto.commit": False,
                    "isolation.level": "read_committed",
                    "auto.offset.reset": "earliest",
                    "session.timeout.ms": settings.session_timeout_ms,
                    "topic.metadata.refresh.interval.ms": NEW_TOPICS_SECONDS * 1_000,
                    "queued.max.messages.kbytes": BUFFERED_KIB,
                    "fetch.wait.max.ms": 25,
                }
            ),
            logger=LIBRDKAFKA_LOG,
        )
        # A pattern to librdkafka, since it opens with ^.
        pattern = f"^{re.escape(settings.names.tenant_jobs_prefix)}.*"
        consumer.subscribe([pattern], on_revoke=self._forget, on_lost=self._forget)
        producer = Producer(
            settings.client_config(
                **{
                    "transactional.id": f"{settings.names.tenant_jobs_group}-{uuid.uuid4().hex}",
                    "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                    "message.max.bytes": MESSAGE_BYTES_MAX,
                    "allow.auto.create.topics": False,
                    "partitioner": "murmur2_random",
                    "queue.buffering.max.messages": 1_000_000,
                }
            ),
            logger=LIBRDKAFKA_LOG,
        )
        return consumer, producer

    def _hand_on(self, consumer: Consumer, producer: Producer) -> None:
        # One by one, because a call for many may give out what came before a rebalance together
        # with what came after it: whoever has a partition then reads its records, too.
        read_bytes = 0
        message = consumer.poll(POLL_SECONDS)
        while message is not None:
            self._read.append(message)
            read_bytes += len(message.value() or b"")
            if len(self._read) >= INGRESS_RECORDS_PER_CYCLE_MAX or read_bytes >= CYCLE_BYTES_MAX:
                break
            message = consumer.poll(0)
        messages, self._read = self._read, []
        records, positions, reasons = self._decide(messages)
        if not positions:
            return
        producer.begin_transaction()
        for topic, partition, key, value, headers, timestamp_ms in records:
            producer.produce(
                topic,
                value,
                key,
                partition,
                timestamp=max(timestamp_ms, 0),
                headers=headers,  # type: ignore[arg-type]  # its lists are invariant
            )
        producer.send_offsets_to_transaction(
            positions, consumer.consumer_group_metadata(), CALL_SECONDS
        )
        producer.commit_transaction(CALL_SECONDS)
        self._told.clear()
        admitted = sum(record.topic == self._settings.names.jobs for record in records)
        self._metrics.count_tenant_topics(admitted, reasons)

    def _forget(self, _consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        self._read.clear()

    def _decide(
        self, messages: Sequence[Message]
    ) -> tuple[list[OutRecord], list[TopicPartition], list[str]]:
        """What to write, where to go on, and the reasons of what was rejected."""
        now_ms = self._clock_ms()
        records: list[OutRecord] = []
        positions: dict[tuple[str, int], int] = {}
        reasons: list[str] = []
        for message in messages:
            error = message.error()
            if error is not None:
                self._look_at(error, message.topic() or "")
                continue
            topic, partition = message.topic() or "", message.partition() or 0
            record = plain_record(message)
            out, rejection = self._core.take(topic, partition, record, now_ms)
            records += out
            positions[topic, partition] = record.offset + 1
            if rejection is not None:
                reasons.append(rejection.reason.value)
        return records, [TopicPartition(*at, offset) for at, offset in positions.items()], reasons

    def _look_at(self, error: KafkaError, topic: str) -> None:
        """Tell of an error of reading; raise `KafkaException` for what a new member mends."""
        if error.fatal():
            raise KafkaException(error)
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            # Also what librdkafka says of a pattern while no tenant has a topic.
            return
        names = self._settings.names
        fault = error.str()
        if error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            fault = lacks([Operation.READ], Resource(Kind.GROUP, names.tenant_jobs_group))
        elif error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            fault = lacks([Operation.READ], Resource(Kind.TOPIC, topic))
        self._tell(fault)

    def _look_around(self, consumer: Consumer) -> None:
        """See from time to time whether there is a broker, and why where nothing is read.

        A consumer that was told that there are no brokers says nothing and never asks again
        (ADR 26), so one without an answer raises `KafkaException`.
        """
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        consumer.list_topics(self._settings.names.jobs, ANSWER_SECONDS_MAX)
        if consumer.assignment():
            return
        lacking = self._lacking()
        if lacking:
            self._tell(lacking)
        else:
            self._told.clear()

    def _tell(self, fault: str) -> None:
        """Say once what is wrong."""
        if fault not in self._told:
            self._told.add(fault)
            log.warning("ingress topics of tenants cannot be read", error=fault)

    def _lacking(self) -> str:
        try:
            return "; ".join(self._missing_rights())
        except KafkaProblem:
            return ""

    def _fault(self, error: Exception) -> str:
        """What failed, by the right that is missing where it is one."""
        code = error.args[0].code() if isinstance(error, KafkaException) else None
        if code not in _CODES_OF_RIGHTS:
            return error_text(error)
        if code == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            ids = self._settings.names.transactional_id_prefix
            return lacks([Operation.WRITE], Resource(Kind.TRANSACTIONAL_ID, ids, prefixed=True))
        return self._lacking() or error_text(error)
