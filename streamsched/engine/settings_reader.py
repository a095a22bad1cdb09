"""Following the settings log: a thread reads, the main loop's view is fed."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from streamsched.core.settings_view import SettingsView
from streamsched.engine.librdkafka_log import LIBRDKAFKA_LOG
from streamsched.engine.reader import StartError
from streamsched.kafka.rights import Kind, Operation, Resource, lacks
from streamsched.settings import Settings

RECORDS_PER_BATCH: Final = 1_000
POLL_SECONDS: Final = 0.25
RETRY_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 10.0
"""How often it is seen whether the client hears its broker."""
ANSWER_SECONDS_MAX: Final = 5.0

START_AGAIN: Final = (
    "start the scheduler again to follow it as it is now; tenants of whom it says nothing keep the "
    "settings that are in force"
)

log = structlog.get_logger()


class SettingsReader:
    """Feeds `view` on the event loop that `start` was called on, and tells when it did."""

    def __init__(
        self,
        settings: Settings,
        view: SettingsView,
        on_change: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        """`on_change` is called on the loop after each stretch of records.

        `fail` is called there with a `StartError` when the topic lacks what is next to be read.
        """
        self._settings = settings
        self._view = view
        self._on_change = on_change
        self._fail = fail
        self._stopping = threading.Event()
        self._doubts = 0
        """How often `doubt` was called; written on the loop, read by the thread."""
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin at the beginning of the log."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="settings", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it does within a poll."""
        self._stopping.set()

    def doubt(self) -> None:
        """Take the view for incomplete until the log's end, as it is from now on, was read again.

        To be called on the loop. What was read before stays.
        """
        self._view.complete = False
        self._doubts += 1

    def _run(self) -> None:
        topic = self._settings.names.tenant_settings
        next_offset = 0
        looked_at = time.monotonic()
        while not self._stopping.is_set():
            answers = -1
            consumer = self._connect()
            try:
                while not self._stopping.is_set():
                    if answers != self._doubts:
                        # Assigned anew, it asks for the log's end anew and tells of it, which
                        # answers the doubts of before.
                        answers = self._doubts
                        consumer.assign([TopicPartition(topic, 0, next_offset or OFFSET_BEGINNING)])
                    messages = consumer.consume(RECORDS_PER_BATCH, POLL_SECONDS)
                    if messages:
                        next_offset = self._take(messages, next_offset, answers)
                    if time.monotonic() - looked_at > LOOK_SECONDS:
                        self._refuse_a_deaf_client(consumer)
                        looked_at = time.monotonic()
            except StartError as error:
                self._on_loop(self._fail, error)
                return
            except KafkaException as exception:
                refusal = exception.args[0]
                fault = refusal.str()
                if refusal.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    fault = lacks([Operation.READ], Resource(Kind.TOPIC, topic))
                log.warning("settings topic cannot be read", error=fault)
                self._stopping.wait(RETRY_SECONDS)
            finally:
                consumer.close()

    def _connect(self) -> Consumer:
        return Consumer(
            self._settings.client_config(
                **{
                    "group.id": self._settings.names.group,
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "isolation.level": "read_committed",
                    "auto.offset.reset": "error",
                    "fetch.wait.max.ms": 100,
                    # From the leader: the end of a follower's log can be behind.
                    "client.rack": "",
                }
            ),
            logger=LIBRDKAFKA_LOG,
        )

    def _refuse_a_deaf_client(self, consumer: Consumer) -> None:
        """Raise `KafkaException` where the topic's leader does not answer it.

        A client that was told that there are no brokers says nothing and never asks again
        (ADR 26); a new one does.
        """
        place = TopicPartition(self._settings.names.tenant_settings, 0)
        consumer.get_watermark_offsets(place, timeout=ANSWER_SECONDS_MAX, cached=False)

    def _take(self, messages: list[Message], next_offset: int, answers: int) -> int:
        """Hand a stretch of records to the loop; returns the offset after it."""
        records: list[tuple[int, bytes | None, bytes | None]] = []
        at_end = False
        for message in messages:
            error = message.error()
            if error is None:
                offset = message.offset() or 0
                next_offset = offset + 1
                records.append((offset, message.key(), message.value()))
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                at_end = True
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - as above
                topic = self._settings.names.tenant_settings
                raise StartError(
                    f"topic {topic} does not hold offset {next_offset}, which is next to be read: "
                    f"it was made anew, or has lost records: {START_AGAIN}"
                )
            elif not error.retriable():
                raise KafkaException(error)
        self._on_loop(self._feed, records, answers if at_end else None)
        return next_offset

    def _on_loop(self, function: Callable[..., None], *arguments: object) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _feed(
        self,
        records: list[tuple[int, bytes | None, bytes | None]],
        answers: int | None,
    ) -> None:
        """Take in records; `answers` is for those up to the end: how many doubts it answers."""
        for offset, key, value in records:
            fault = self._view.feed(offset, key, value)
            if fault:
                log.warning(
                    "invalid settings record; the last valid one stays in force",
                    tenant=None if key is None else key.decode(errors="replace"),
                    offset=offset,
                    fault=fault,
                )
        completes = answers == self._doubts and not self._view.complete
        if completes:
            self._view.complete = True
        if records or completes:
            self._on_change()
