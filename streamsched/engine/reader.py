"""The thread that reads: aiokafka's group member, on a thread and an event loop of its own.

It reads each partition only after a seek told from where, and knows nothing of the group's
committed offsets. Heartbeats go on while the main loop works.
"""
# ruff: noqa: SLF001 - it stands on internals of aiokafka and Faust that have no types;
# tests/unit/test_faust_assumptions.py names each one.

import asyncio
import contextlib
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import aiokafka
import structlog
from aiokafka.errors import (
    ConsumerStoppedError,
    GroupAuthorizationFailedError,
    KafkaError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from mode.threads import WorkerThread

from streamsched.core.limits import (
    CYCLE_BYTES_MAX,
    INGRESS_RECORDS_PER_CYCLE_MAX,
    MESSAGE_BYTES_MAX,
)
from streamsched.engine.ingress import FetchedChunk
from streamsched.engine.ingress_buffer import unpacked_bytes
from streamsched.engine.metadata_pace import look_for_unknown_replicas, pace_metadata
from streamsched.engine.partitions import IngressChunk, PartitionLostError
from streamsched.engine.unnamable import PlainRecord, read_plainly
from streamsched.kafka.rights import Kind, Operation, Resource, lacks

if TYPE_CHECKING:
    from streamsched.engine.transport import ChunkConsumer

REBALANCE_TIMEOUT_MS: Final = 10_000
HEARTBEAT_INTERVAL_MS: Final = 500
REQUEST_TIMEOUT_MS: Final = 30_000
MAX_POLL_INTERVAL_MS: Final = 60_000
"""A main loop that has not asked for records for so long is stuck: the group goes on without."""

FETCH_WAIT_MS: Final = 25
"""How long a fetch waits for records, and so how long a job alone lies on the broker unread."""

FETCH_BYTES_MIN: Final = 4_096
"""What a fetch waits for, `FETCH_WAIT_MS` at most. Answered for each record, 1,000 small jobs a
second are 1,000 fetches, and the producers to that broker wait for their acknowledgements."""

FETCH_BYTES_MAX: Final = max(2 * 1024 * 1024, 2 * MESSAGE_BYTES_MAX)
PREFETCH_BACKOFF_SECONDS: Final = 0.05
"""How long a chunk that nobody takes keeps the other partitions of its broker from fetching."""

RECORDS_PER_STEP: Final = 100
"""How many records are taken before it is looked how many bytes they are."""

LEAVE_SECONDS_MAX: Final = 1.5

T = TypeVar("T")
log = structlog.get_logger()


class StartError(Exception):
    """The scheduler cannot run as things are; the text is one sentence for the user."""


@dataclass(slots=True)
class _Mark:
    """Where the next chunk of a partition starts, and which seek it follows."""

    epoch: int
    position: int


class RebalanceListener(driver.ConsumerRebalanceListener):
    """Faust's listener; it also keeps aiokafka from reading on its own account.

    Both hooks begin before anything is awaited, on the reader's thread.
    """

    _thread: "ReaderThread"

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> Awaitable[None]:
        """Own nothing from this moment, then let Faust do its part."""
        self._thread.forget_positions()
        return cast("Awaitable[None]", super().on_partitions_revoked(revoked))

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Hold every partition, changelogs too, before the fetcher can look for offsets."""
        partitions = list(assigned)
        self._thread.hold(partitions)
        await super().on_partitions_assigned(partitions)


class DaemonThread(WorkerThread):
    """A thread that cannot keep a finished process alive."""

    def __init__(self, service: "ReaderThread", **kwargs: Any) -> None:
        super().__init__(service, **kwargs)
        self.daemon = True

    def run(self) -> None:
        """Run; an exception has crashed the service by then and is told by the worker."""
        with contextlib.suppress(Exception):
            super().run()


class ReaderThread(driver.AIOKafkaConsumerThread):
    """The aiokafka consumer on its own thread and loop; implements `ingress.Reader`.

    Methods named `_…_here` run on the thread's loop, all others are called on the main loop.
    """

    abstract = False
    Worker = DaemonThread

    def __post_init__(self) -> None:
        super().__post_init__()
        self._marks: dict[int, _Mark] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._woken = False
        self._connecting: asyncio.Future[None] | None = None
        self._closing: asyncio.Future[None] | None = None

    @property
    def _frame(self) -> "ChunkConsumer":
        return cast("ChunkConsumer", self.consumer)

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:  # noqa: ARG002
        self._assignor = self.app.assignor
        settings = self._frame.transport.settings
        options = {
            "client_id": f"{self.app.conf.id}-ingress",
            **self._frame.transport.connection,
            "group_id": self.app.conf.id,
            "partition_assignment_strategy": [self._assignor],
            "isolation_level": "read_committed",
            "auto_offset_reset": "none",
            "enable_auto_commit": False,
            "fetch_max_wait_ms": FETCH_WAIT_MS,
            "fetch_min_bytes": FETCH_BYTES_MIN,
            "max_partition_fetch_bytes": FETCH_BYTES_MAX,
            "max_poll_interval_ms": MAX_POLL_INTERVAL_MS,
            "session_timeout_ms": settings.session_timeout_ms,
            "group_instance_id": settings.group_instance_id or None,
            "rebalance_timeout_ms": REBALANCE_TIMEOUT_MS,
            "heartbeat_interval_ms": HEARTBEAT_INTERVAL_MS,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
        }
        return aiokafka.AIOKafkaConsumer(**options)

    async def on_start(self) -> None:
        """Connect, then refuse to run on topics that are missing or do not fit together."""
        self._consumer = self._create_consumer(loop=self.thread_loop)
        self._connecting = asyncio.ensure_future(self._consumer.start())
        try:
            await self._connecting
        except KafkaError as error:
            where = ", ".join(self._frame.transport.connection["bootstrap_servers"])
            raise StartError(
                f"cannot reach Kafka at {where} ({error}); start it, or set bootstrap_servers"
            ) from error
        self._consumer._fetcher._prefetch_backoff = PREFETCH_BACKOFF_SECONDS
        pace_metadata(self._consumer._client)
        look_for_unknown_replicas(self._consumer)
        cluster = await self._consumer._client.fetch_all_metadata()
        counts = {}
        for topic in (self._frame.ingress_topic, *self.app.tables.changelog_topics):
            counts[topic] = len(cluster.partitions_for_topic(topic) or ())
            if not counts[topic]:
                raise StartError(
                    f"topic {topic} does not exist; create it with `streamsched topics apply`"
                )
        if len(set(counts.values())) > 1:
            told = " and ".join(f"{topic} has {count}" for topic, count in counts.items())
            raise StartError(f"these topics must have equally many partitions, but {told}")

    def on_crash(self, msg: str, *fmt: Any, **kwargs: Any) -> None:
        """Leave the telling to the worker, which logs the crash once."""

    # --- called on this thread by aiokafka, through the listener --------------------------

    def forget_positions(self) -> None:
        """Deliver nothing any more."""
        self._marks.clear()
        self._frame.ingress.suspend()

    def hold(self, partitions: Sequence[TopicPartition]) -> None:
        """Begin a generation with all of them paused.

        The position is only there to keep aiokafka from asking for a committed offset.
        """
        consumer = self._ensure_consumer()
        for partition in partitions:
            consumer.seek(partition, 0)
        consumer.pause(*partitions)
        self._frame.ingress.admit(consumer._coordinator.generation)

    # --- ingress.Reader, on the main loop -------------------------------------------------

    async def seek_to(
        self, partition: int, offset: int | None, *, generation: int, epoch: int
    ) -> int:
        """See `ingress.Reader`."""
        return await self._here(self._seek_here(partition, offset, generation, epoch))

    async def fetch(self, wanted: frozenset[int], seconds: float) -> Sequence[FetchedChunk]:
        """See `ingress.Reader`."""
        return await self._here(self._fetch_here(wanted, seconds))

    def wake(self) -> None:
        """See `ingress.Reader`."""
        if self.thread_loop.is_running():
            self.thread_loop.call_soon_threadsafe(self._wake_here)

    async def first_offset(self, partition: int) -> int:
        """See `ingress.Reader`."""
        return await self._here(self._first_offset_here(partition))

    async def stable_offset(self, partition: int) -> int:
        """See `ingress.Reader`: `end_offsets` of a read_committed consumer is that offset."""
        tp = self._tp(partition)
        found = await self._here(self._ensure_consumer().end_offsets([tp]))
        return int(found[tp])

    async def commit_group_offsets(self, offsets: dict[int, int]) -> None:
        """See `ingress.Reader`."""
        noted = {self._tp(p): OffsetAndMetadata(offset, "") for p, offset in offsets.items()}
        await self._here(self._ensure_consumer().commit(noted))

    async def leave_group(self) -> None:
        """See `ingress.Reader`."""
        if self._connecting is None or self.should_stop or not self.thread_loop.is_running():
            return  # A thread that has crashed or was stopped leaves the group at its own end.
        if not self._connecting.done():
            # A broker that does not answer would hold up our end for half a minute.
            self.thread_loop.call_soon_threadsafe(self._connecting.cancel)
        else:
            await self._here(self._leave_here())

    # --- on this thread -------------------------------------------------------------------

    async def _here(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on this thread's loop and wait for it on the main one."""
        if not self.thread_loop.is_running():
            work.close()
            raise ConsumerStoppedError
        running = asyncio.run_coroutine_threadsafe(work, self.thread_loop)
        try:
            return await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not the caller was cancelled but this thread's work: the consumer is going down.
            raise ConsumerStoppedError from None

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(self._frame.ingress_topic, partition)

    def _wake_here(self) -> None:
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _first_offset_here(self, partition: int) -> int:
        tp = self._tp(partition)
        found = await self._ensure_consumer().beginning_offsets([tp])
        return int(found[tp])

    async def _seek_here(
        self, partition: int, offset: int | None, generation: int, epoch: int
    ) -> int:
        start = await self._first_offset_here(partition) if offset is None else offset
        consumer = self._ensure_consumer()
        tp = self._tp(partition)
        # Looked at after the last await: a seek that is late must not start a partition that
        # has been assigned anew, whose state is not recovered yet.
        if consumer._coordinator.generation != generation or not self._is_assigned(tp):
            raise PartitionLostError(f"ingress partition {partition} was given up meanwhile")
        mark = self._marks.get(partition)
        if mark is None or mark.epoch < epoch:
            # With a rack a follower may have been read from, which can lack what another owner has
            # read since: the leader is asked first, and names one that has it.
            consumer._fetcher._preferred_read_replica.pop(tp, None)
            consumer.seek(tp, start)
            consumer.resume(tp)
            self._marks[partition] = _Mark(epoch, start)
        return start

    def _is_assigned(self, tp: TopicPartition) -> bool:
        subscriptions = self._ensure_consumer()._subscription
        return not subscriptions.reassignment_in_progress and subscriptions.is_assigned(tp)

    async def _fetch_here(self, wanted: frozenset[int], seconds: float) -> Sequence[FetchedChunk]:
        consumer = self._ensure_consumer()
        if consumer._closed or consumer._fetcher._closed:
            raise ConsumerStoppedError
        try:
            consumer._coordinator.check_errors()
        except GroupAuthorizationFailedError as error:
            group = Resource(Kind.GROUP, self.app.conf.id)
            raise StartError(lacks([Operation.READ], group)) from error
        # The context tells aiokafka that we are alive, also when no partition wants records.
        with consumer._subscription.fetch_context():
            chunks = await self._take_here(wanted)
            if not chunks and not self._woken:
                self._waiter = waiter = consumer._fetcher._create_fetch_waiter()
                await asyncio.wait({waiter}, timeout=seconds)
                self._waiter = None
                if waiter.done():
                    waiter.result()
                else:
                    waiter.cancel()
                chunks = await self._take_here(wanted)
            self._woken = False
        return chunks

    async def _take_here(self, wanted: Iterable[int]) -> list[FetchedChunk]:
        """What is there now of each wanted partition; does not wait.

        Partition by partition: the bound on records that aiokafka's call takes is shared by the
        partitions asked for, so a busy one would leave nothing to the others.
        """
        consumer = self._ensure_consumer()
        generation = consumer._coordinator.generation
        taken = []
        for partition in wanted:
            tp = self._tp(partition)
            mark = self._marks.get(partition)
            if mark is None or not self._is_assigned(tp):
                continue
            try:
                records = await self._records_here(tp)
            except OffsetOutOfRangeError as error:
                raise StartError(
                    f"{tp.topic} partition {partition} does not hold offset {mark.position}, which "
                    "is next to be read: the topic was recreated, or records expired unread; "
                    "start the scheduler again to be told which, and what to do"
                ) from error
            except TopicAuthorizationFailedError:
                # aiokafka asks again by itself, so it goes on when the right comes back.
                if not self._frame.ingress.is_forbidden():
                    log.warning("ingress cannot be read", error=self._forbidden_ingress())
                self._frame.ingress.forbid()
                continue
            except UnsupportedCodecError as error:
                raise StartError(
                    f"{tp.topic} partition {partition} holds a compressed record at or after "
                    f"offset {mark.position} that cannot be read ({error}); install cramjam"
                ) from error
            except UnicodeDecodeError:
                records = await self._read_plainly_here(tp, mark)
                end = records[-1].offset + 1 if records else mark.position
            else:
                end = consumer._subscription.subscription.assignment.state_value(tp).position
            self._note_unstable(tp)
            if end == mark.position:
                continue
            chunk = IngressChunk(partition, generation, mark.position, end, records)
            taken.append(FetchedChunk(mark.epoch, chunk))
            mark.position = end
        return taken

    def _note_unstable(self, tp: TopicPartition) -> None:
        consumer = self._ensure_consumer()
        end, stable = consumer.highwater(tp), consumer.last_stable_offset(tp)
        if end is not None and stable is not None:
            self._frame.ingress.note_unstable(tp.partition, max(0, end - stable))

    async def _records_here(self, tp: TopicPartition) -> list[Any]:
        """What is there of one partition, as much of it as a cycle takes.

        In steps, because records are unpacked as they are taken: a fetch of a few KiB can hold
        gigabytes. Raises what the first step raises. After an error in a later one aiokafka reads
        again from where that began, since its position has not moved, and meets the error again.
        """
        fetcher = self._ensure_consumer()._fetcher
        records: list[Any] = []
        taken_bytes = 0
        while len(records) < INGRESS_RECORDS_PER_CYCLE_MAX and taken_bytes < CYCLE_BYTES_MAX:
            wanted = min(RECORDS_PER_STEP, INGRESS_RECORDS_PER_CYCLE_MAX - len(records))
            try:
                fetched = await fetcher.fetched_records([tp], timeout=0, max_records=wanted)
            except (KafkaError, UnicodeDecodeError):
                if not records:
                    raise
                break
            step = fetched.get(tp, ())
            if not step:
                break
            records += step
            taken_bytes += sum([unpacked_bytes(record) for record in step])
        return records

    def _forbidden_ingress(self) -> str:
        return lacks([Operation.READ], Resource(Kind.TOPIC, self._frame.ingress_topic))

    async def _read_plainly_here(self, tp: TopicPartition, mark: _Mark) -> list[PlainRecord]:
        """What aiokafka cannot read: the name of a header is no UTF-8."""
        loop = asyncio.get_running_loop()
        settings = self._frame.transport.settings
        records = await loop.run_in_executor(
            None, read_plainly, settings, tp.partition, mark.position
        )
        if not records or self._marks.get(tp.partition) is not mark or not self._is_assigned(tp):
            return []
        self._ensure_consumer().seek(tp, records[-1].offset + 1)
        return records

    async def _leave_here(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close_membership_here())
        await asyncio.shield(self._closing)

    async def _close_membership_here(self) -> None:
        coordinator = self._ensure_consumer()._coordinator
        if coordinator is None:
            return
        closing = asyncio.ensure_future(coordinator.close())
        await asyncio.wait({closing}, timeout=LEAVE_SECONDS_MAX)
        if not closing.done():
            # It waits for a rebalance under way; the group must not wait for us as well.
            closing.cancel()
            await coordinator._maybe_leave_group()

    async def on_thread_stop(self) -> None:
        """Leave the group before the sockets are closed; aiokafka's second close does not wait."""
        if self._consumer is not None:
            await self._leave_here()
        await super().on_thread_stop()

    def _stopped_set(self) -> None:
        if not self.thread_loop.is_closed():
            super()._stopped_set()
