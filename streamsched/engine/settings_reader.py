"""Following the settings log: a thread reads, the main loop's view is fed."""

import asyncio
import threading
from collections.abc import Callable
from typing import Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streamsched.core.settings_view import SettingsView
from streamsched.engine.librdkafka_log import LIBRDKAFKA_LOG
from streamsched.settings import Settings

RECORDS_PER_BATCH: Final = 1_000
POLL_SECONDS: Final = 0.25
RETRY_SECONDS: Final = 1.0

log = structlog.get_logger()


class SettingsReader:
    """Feeds `view` on the event loop that `start` was called on, and tells when it did."""

    def __init__(
        self, settings: Settings, view: SettingsView, on_change: Callable[[], None]
    ) -> None:
        """`on_change` is called on the loop, after each stretch of records."""
        self._settings = settings
        self._view = view
        self._on_change = on_change
        self._stopping = threading.Event()
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

    def _run(self) -> None:
        next_offset = 0
        while not self._stopping.is_set():
            consumer = self._connect(next_offset)
            try:
                while not self._stopping.is_set():
                    messages = consumer.consume(RECORDS_PER_BATCH, POLL_SECONDS)
                    if messages:
                        next_offset = self._take(messages, next_offset)
            except KafkaException as exception:
                log.warning("settings topic cannot be read", error=exception.args[0].str())
                self._stopping.wait(RETRY_SECONDS)
            finally:
                consumer.close()

    def _connect(self, next_offset: int) -> Consumer:
        consumer = Consumer(
            self._settings.client_config(
                **{
                    "group.id": f"{self._settings.app_id}-settings",
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "isolation.level": "read_committed",
                    "auto.offset.reset": "earliest",
                    "fetch.wait.max.ms": 100,
                }
            ),
            logger=LIBRDKAFKA_LOG,
        )
        topic = self._settings.names.tenant_settings
        consumer.assign([TopicPartition(topic, 0, next_offset)])
        return consumer

    def _take(self, messages: list[Message], next_offset: int) -> int:
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
            elif not error.retriable():
                raise KafkaException(error)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._feed, records, at_end)
        return next_offset

    def _feed(
        self,
        records: list[tuple[int, bytes | None, bytes | None]],
        at_end: bool,  # noqa: FBT001
    ) -> None:
        for offset, key, value in records:
            fault = self._view.feed(offset, key, value)
            if fault:
                log.warning(
                    "invalid settings record; the last valid one stays in force",
                    tenant=None if key is None else key.decode(errors="replace"),
                    offset=offset,
                    fault=fault,
                )
        if records or (at_end and not self._view.complete):
            self._view.complete = self._view.complete or at_end
            self._on_change()
