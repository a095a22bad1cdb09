"""Reading the changelog of one partition, as far as it is committed."""

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streamsched.core.replay import ChangelogRecord
from streamsched.engine.librdkafka_log import LIBRDKAFKA_LOG
from streamsched.kafka.rights import Kind, Operation, Resource, lacks
from streamsched.settings import Settings

RECORDS_PER_READ_MAX: Final = 5_000
READ_SECONDS_MAX: Final = 0.5
GATHER_SECONDS: Final = 0.005
"""How long a read that has heard something waits for more."""

BOUNDS_SECONDS_MAX: Final = 10.0


class ChangelogError(Exception):
    """The changelog could not be read; the text says why."""


async def confirm_log(look: Callable[[], Awaitable[bool]], unfit: str) -> None:
    """Ask, by `TopicWatch.look`, whether the log is the one that state is compared with.

    Raises `StartError` where it is another one, and `ChangelogError` where that is not sure and
    `unfit` says why the state would have to be rebuilt from it.
    """
    is_same = await look()
    if unfit and not is_same:
        raise ChangelogError(
            f"{unfit}, but Kafka does not tell now whether the changelog is still the same topic"
        )


class Stretch(NamedTuple):
    """Committed records in their order, and the position after them."""

    records: list[ChangelogRecord]
    next_offset: int
    """What `Replay.apply` wants. At the end of the log it is past the markers that close it."""


class ChangelogSource(Protocol):
    """The changelog of one partition at read_committed; all calls block.

    `bounds`, `seek`, then `read` as often as wanted: up to an end, or for ever by one who follows
    it. One thread at a time. All raise `ChangelogError`.
    """

    def bounds(self) -> tuple[int, int]:
        """Earliest and end offset now. After fencing no transaction is open below the end."""
        ...

    def seek(self, offset: int) -> None:
        """Read from `offset` on."""
        ...

    def read(self) -> Stretch | None:
        """What comes next, after at most `READ_SECONDS_MAX`; `None` where nothing was heard."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class ChangelogConsumer:
    """`ChangelogSource` on a cluster, outside of any group."""

    def __init__(self, settings: Settings, partition: int) -> None:
        """Connects in the background."""
        self._topic = settings.names.changelog
        self._partition = partition
        self._next_offset = 0
        self._consumer = Consumer(
            settings.client_config(
                **{
                    "group.id": settings.names.group,
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "isolation.level": "read_committed",
                    "auto.offset.reset": "error",
                    "fetch.wait.max.ms": 20,
                    "fetch.min.bytes": 1,
                    "max.partition.fetch.bytes": 4 * 1024 * 1024,
                    "queued.max.messages.kbytes": 16 * 1024,
                    # Left at its second, a queue that was full for a moment is not refilled for
                    # so long: a million records took 7.7 s to read instead of 2.
                    "fetch.queue.backoff.ms": 5,
                }
            ),
            logger=LIBRDKAFKA_LOG,
        )

    def bounds(self) -> tuple[int, int]:
        """See `ChangelogSource.bounds`."""
        place = TopicPartition(self._topic, self._partition)
        try:
            low, end = self._consumer.get_watermark_offsets(
                place, timeout=BOUNDS_SECONDS_MAX, cached=False
            )
        except KafkaException as exception:
            raise self._unreadable(exception.args[0]) from exception
        return low, end

    def seek(self, offset: int) -> None:
        """See `ChangelogSource.seek`."""
        self._next_offset = offset
        try:
            self._consumer.assign([TopicPartition(self._topic, self._partition, offset)])
        except KafkaException as exception:
            raise self._unreadable(exception.args[0]) from exception

    def read(self) -> Stretch | None:
        """See `ChangelogSource.read`."""
        try:
            # The call for many waits for so many: it would sit out its time at the end of the log.
            first = self._consumer.poll(READ_SECONDS_MAX)
            if first is None:
                return None
            rest = self._consumer.consume(RECORDS_PER_READ_MAX - 1, GATHER_SECONDS)
        except KafkaException as exception:
            raise self._unreadable(exception.args[0]) from exception
        messages = [first, *rest]
        records = [(m.key(), m.value()) for m in messages if m.error() is None]
        if len(records) < len(messages):
            self._look_at_events(messages)
        # Both a record and the event that the end was reached tell where they are.
        last = messages[-1]
        position = (last.offset() or 0) + (last.error() is None)
        self._next_offset = max(self._next_offset, position)
        return Stretch(records, self._next_offset)  # type: ignore[arg-type]  # keys are never None

    def _look_at_events(self, messages: list[Message]) -> None:
        for message in messages:
            error = message.error()
            if error is None or error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                continue
            if not error.retriable():
                raise self._unreadable(error)

    def close(self) -> None:
        """See `ChangelogSource.close`."""
        self._consumer.close()

    def _unreadable(self, error: KafkaError) -> ChangelogError:
        fault = error.str()
        if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            fault = lacks([Operation.READ], Resource(Kind.TOPIC, self._topic))
        return ChangelogError(f"changelog {self._topic}-{self._partition}: {fault}")
