"""Reading a partition's changelog into its store, which must be done before any cycle."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streamsched.core.replay import Replay
from streamsched.core.store import Store
from streamsched.engine.librdkafka_log import LIBRDKAFKA_LOG
from streamsched.settings import Settings

RECORDS_PER_BATCH: Final = 5_000
POLL_SECONDS: Final = 0.5
SILENCE_SECONDS_MAX: Final = 30.0
PROGRESS_SECONDS: Final = 1.0

log = structlog.get_logger()


class ReplayError(Exception):
    """The changelog could not be read to its end; the text says why."""


@dataclass(slots=True)
class ReplayResult:
    """What a replay did."""

    records: int
    seconds: float
    was_ahead: bool
    """The local state was ahead of the log, so it is of another history and of no use."""


def changelog_end(consumer: Consumer, partition: TopicPartition) -> tuple[int, int]:
    """Earliest and end offset. After fencing no transaction is open, so the end is stable."""
    low, high = consumer.get_watermark_offsets(partition, timeout=10.0, cached=False)
    return low, high


def replay_changelog(
    settings: Settings,
    partition: int,
    store: Store,
    topic_id: str,
    *,
    is_wanted: Callable[[], bool],
    on_progress: Callable[[int], None],
) -> ReplayResult:
    """Apply what the store lacks of its changelog; blocking, for a thread of its own.

    Must come after the fencing of the former owner. `on_progress` is told the records left.
    Raises `ReplayError`, `StoreError` and `UnknownVersion`.
    """
    started = time.monotonic()
    topic = settings.names.changelog
    consumer = Consumer(
        settings.client_config(
            **{
                "group.id": f"{settings.app_id}-replay",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 20,
                "fetch.min.bytes": 1,
                "max.partition.fetch.bytes": 8 * 1024 * 1024,
                "queued.max.messages.kbytes": 32 * 1024,
            }
        ),
        logger=LIBRDKAFKA_LOG,
    )
    try:
        low, end = changelog_end(consumer, TopicPartition(topic, partition))
        replay = Replay(store, topic_id)
        if replay.next_offset > end:
            return ReplayResult(0, time.monotonic() - started, was_ahead=True)
        start = max(replay.next_offset, low)
        records = 0
        if start < end:
            consumer.assign([TopicPartition(topic, partition, start)])
            records = _read(consumer, replay, start, end, is_wanted, on_progress)
        if is_wanted():
            replay.apply([], end)
            replay.finish()
    except KafkaException as exception:
        reason = exception.args[0].str()
        raise ReplayError(f"changelog {topic}-{partition}: {reason}") from exception
    finally:
        consumer.close()
    on_progress(0)
    return ReplayResult(records, time.monotonic() - started, was_ahead=False)


def _read(
    consumer: Consumer,
    replay: Replay,
    start: int,
    end: int,
    is_wanted: Callable[[], bool],
    on_progress: Callable[[int], None],
) -> int:
    """Read to `end`. A log may close with markers, be empty, or be compacted to nothing."""
    records = 0
    heard = told = time.monotonic()
    on_progress(end - start)
    while is_wanted():
        messages = consumer.consume(RECORDS_PER_BATCH, POLL_SECONDS)
        now = time.monotonic()
        if messages:
            heard = now
        elif now - heard > SILENCE_SECONDS_MAX:
            raise ReplayError(f"no answer from the broker for {SILENCE_SECONDS_MAX:.0f} s")
        batch, at_end = _split(messages, end)
        if batch:
            replay.apply(batch, _next_offset(messages))
            records += len(batch)
        if at_end:
            return records
        if now - told > PROGRESS_SECONDS:
            told = now
            on_progress(max(0, end - replay.next_offset))
    return records


def _split(messages: list[Message], end: int) -> tuple[list[tuple[bytes, bytes | None]], bool]:
    """Key and value of each record, and whether the end was reached."""
    batch: list[tuple[bytes, bytes | None]] = []
    at_end = False
    for message in messages:
        error = message.error()
        if error is None:
            batch.append((message.key(), message.value()))  # type: ignore[arg-type]
            at_end = at_end or (message.offset() or 0) + 1 >= end
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
            at_end = at_end or (message.offset() or 0) >= end
        elif not error.retriable():
            raise KafkaException(error)
    return batch, at_end


def _next_offset(messages: list[Message]) -> int:
    return max((m.offset() or 0) + 1 for m in messages if m.error() is None)
