"""What is done with one partition: fence, recover, then one cycle after the other.

A runner lives as long as one assignment. Whatever goes wrong with its producer, it begins again
at the fence; whatever was committed is in the changelog.
"""

import asyncio
from contextlib import suppress
from typing import Final

import structlog
from aiokafka.errors import KafkaError as AiokafkaError
from aiokafka.errors import TopicAuthorizationFailedError
from confluent_kafka import KafkaException

from streamsched.core.cycle import Chunk, Cycle
from streamsched.core.limits import (
    CLOCK_STEP_BACK_MS_MAX,
    INGEST_CATCH_UP_MS_MAX,
    INGRESS_RECORDS_PER_CYCLE_MAX,
)
from streamsched.core.partition import CycleRefusedError, Partition
from streamsched.core.sending import BrokenIndexError
from streamsched.core.state import UnknownVersion
from streamsched.engine.changelog import ChangelogError
from streamsched.engine.follower import Follower
from streamsched.engine.ingress_buffer import IngressBuffer
from streamsched.engine.own_state import OwnState
from streamsched.engine.partitions import IngressChunk, PartitionLostError
from streamsched.engine.producer import (
    CycleFailedError,
    IdForbiddenError,
    PartitionProducer,
    ProducerLostError,
)
from streamsched.engine.reader import StartError
from streamsched.engine.shared import Phase, Shared
from streamsched.engine.state_checks import (
    refuse_foreign_ingress,
    refuse_lost_state,
    truncated_ingress,
)
from streamsched.kafka.connection import KafkaProblem
from streamsched.kafka.rights import Kind, Operation, Resource, lacks
from streamsched.store.errors import StoreCorrupt, StoreError

CYCLE_SECONDS_MIN: Final = 0.040
"""Cycles of a partition with little to do begin at least this far apart. Each costs the broker a
transaction: at 10 ms apart, producers to the same broker waited 12 to 80 ms at p99 for their
acknowledgements, at 40 ms about 8."""

STORING_SECONDS_MIN: Final = 0.100
"""The same after a cycle from which no job left, where none is known to be due before. At 1,000
jobs a second for later it saves a quarter of the scheduler's and of the broker's CPU, and half of
what producers wait at p99; a job that comes then and is due at once leaves 60 ms later at most."""

RETRY_SECONDS: Final = 0.5
SETTINGS_LOOK_SECONDS: Final = 1.0
SETTINGS_PATIENCE_SECONDS: Final = 10.0
END_LOOKS_MAX: Final = 20
"""How often the end of an ingress partition is looked at again that is behind the state."""

log = structlog.get_logger()

_BEGIN_AGAIN: Final = (
    ProducerLostError,
    ChangelogError,
    StoreCorrupt,
    AiokafkaError,
    KafkaException,
)


class Runner:
    """One partition under one generation of the group."""

    def __init__(
        self, shared: Shared, number: int, generation: int, follower: Follower | None = None
    ) -> None:
        """Nothing happens before `start`. Takes over the store of `follower`, a former standby."""
        self.number = number
        self.phase = Phase.FENCING
        self.state = OwnState(shared, number, follower)
        self.clock_is_back_ms = 0
        """How far the wall clock is behind the last cycle, if that is more than is tolerated."""
        self.failed_cycles = 0
        """How often in a row its transaction has failed."""
        self.failure = ""
        """Why it did last, or why it began again."""
        self.partition: Partition | None = None
        self._shared = shared
        self._generation = generation
        self._wake = asyncio.Event()
        self._buffer = IngressBuffer()
        self._stalled_seconds = 0.0
        self._stopping = False
        self._producer: PartitionProducer | None = None
        self._task: asyncio.Task[None] | None = None

    # --- for the owner ---------------------------------------------------------------------

    def start(self) -> None:
        """Begin in a task of its own."""
        self._task = asyncio.create_task(self._run(), name=f"partition {self.number}")

    async def stop(self, seconds: float) -> None:
        """Finish the cycle in progress, or abandon it after `seconds`; then release the store."""
        self._stopping = True
        self._wake.set()
        task = self._task
        try:
            if task is not None:
                _, unfinished = await asyncio.wait({task}, timeout=seconds)
                if unfinished:
                    log.warning("abandoned the cycle in progress", partition=self.number)
                    task.cancel()
                    await asyncio.wait({task})
        finally:
            # Even if the frame is tired of waiting: a process that was stopped by a signal finds
            # both its times over when it goes on, and a store left open locks out the next runner.
            if task is not None:
                task.cancel()
            self._release()
            if self.state.follower is not None:
                # It closes a store, too, when it has ended, even if nobody waits for that.
                await asyncio.shield(self.state.follower.stop())

    def wake(self) -> None:
        """Look at the partition now: settings or topics may have changed."""
        self._wake.set()

    def has_room(self) -> bool:
        """Whether another chunk is wanted."""
        return self.phase is Phase.READY and self._buffer.has_room

    def buffered_bytes(self) -> int:
        """What was fetched and waits for a cycle; the limit is `BUFFERED_BYTES_MAX` and a chunk."""
        return self._buffer.held_bytes

    def take(self, chunk: IngressChunk) -> None:
        """Queue a chunk for the next cycles.

        One that was on its way when the partition began again is of before the seek to come.
        """
        if self.phase is not Phase.READY:
            return
        self._buffer.put(chunk)
        self._wake.set()

    # --- life ------------------------------------------------------------------------------

    def _is_wanted(self) -> bool:
        return not self._stopping and self._shared.ingress.owns(self.number, self._generation)

    async def _run(self) -> None:
        try:
            while self._is_wanted():
                try:
                    await self._recover()
                    await self._cycle_until_unwanted()
                except _BEGIN_AGAIN as error:
                    await self._begin_again(error)
                except CycleRefusedError:
                    # The offsets of a changelog that was made anew begin at 0 again. If that is
                    # why, the sentence says so.
                    await self._shared.look_at_topics()
                    raise
        except PartitionLostError:
            log.info("partition was lost", partition=self.number)
        except (StoreError, UnknownVersion) as error:
            self._shared.ingress.fail(StartError(str(error)))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the unforeseen must end the process, aloud
            self._shared.ingress.fail(error)
        finally:
            self.phase = Phase.STOPPED

    async def _begin_again(self, error: Exception) -> None:
        """Drop everything that was open; what is committed will be read from the changelog."""
        self.failure = str(error)
        if isinstance(error, TopicAuthorizationFailedError):
            topic = Resource(Kind.TOPIC, self._shared.settings.names.jobs)
            self.failure = lacks([Operation.READ], topic)
        log.warning("partition begins again", partition=self.number, error=self.failure)
        # First of all, so that nothing more is asked for or taken.
        self.phase = Phase.FENCING
        self._release()
        if isinstance(error, ProducerLostError):
            self._shared.metrics.producers_lost.inc()
        if isinstance(error, StoreCorrupt):
            await self.state.destroy()
        await asyncio.sleep(RETRY_SECONDS)

    def _release(self) -> None:
        """Close what was opened; buffered records are read again by whoever comes next."""
        self.partition = None
        self._buffer.clear()
        if self._producer is not None:
            self._producer.close()
            self._producer = None
        self.state.close()

    # --- recovery --------------------------------------------------------------------------

    async def _recover(self) -> None:
        """From nothing to a partition that may run its first cycle, in the order that is safe."""
        shared = self._shared
        began = shared.monotonic()
        self.phase = Phase.FENCING
        if self.state.follower is not None:
            # Now, since it may take half a second. What is committed meanwhile belongs to the tail.
            self.state.follower.ask_to_stop()
        self._producer = shared.make_producer(self.number)
        try:
            fenced = await self._producer.fence(self._is_wanted)
        except IdForbiddenError as error:
            prefix = shared.settings.names.transactional_id_prefix
            ids = Resource(Kind.TRANSACTIONAL_ID, prefix, prefixed=True)
            raise StartError(lacks([Operation.WRITE], ids)) from error
        if not fenced or not self._is_wanted():
            return
        self.phase = Phase.REPLAYING
        store = await self.state.recover(self._is_wanted)
        if not self._is_wanted():
            return
        partition = Partition(
            self.number,
            shared.cluster.partitions,
            shared.settings.names,
            store,
            shared.view,
            shared.directory,
            topic_id=shared.cluster.jobs_topic_id,
            changelog_topic_id=shared.cluster.changelog_topic_id,
        )
        self.phase = Phase.WAITING_FOR_SETTINGS
        await self._await_settings(partition)
        if not self._is_wanted():
            return
        await self._seek(partition)
        self.partition = partition
        self.failure = ""
        self.phase = Phase.READY
        seconds = shared.monotonic() - began
        shared.metrics.recovery_seconds.labels(str(self.number)).set(seconds)
        self._wake.set()
        shared.ingress.wake()

    async def _await_settings(self, partition: Partition) -> None:
        """Wait until the view has come as far as the state has."""
        view = self._shared.view
        began = self._shared.monotonic()
        told = False
        while self._is_wanted():
            # Cleared before the look: what comes after it wakes us, what came before does not.
            self._wake.clear()
            is_read = view.complete and (
                view.topic_id != partition.settings_topic_id
                or view.position > partition.settings_offset
            )
            if is_read:
                return
            # Settings of a moment ago can be in the state before they are in the view.
            patience_is_over = self._shared.monotonic() - began > SETTINGS_PATIENCE_SECONDS
            if view.complete and patience_is_over and not told:
                told = True
                log.error(
                    "the settings topic has lost records, it ends before the state's settings; "
                    "nothing leaves until as many were published again",
                    partition=self.number,
                    settings_end=view.position,
                    state_needs=partition.settings_offset + 1,
                )
            await self._sleep(SETTINGS_LOOK_SECONDS)

    async def _seek(self, partition: Partition) -> None:
        """Start reading where the state ends. Raises `StartError` where that is impossible."""
        shared = self._shared
        self._stalled_seconds = shared.pulse.beat()
        settings, ingress, number = shared.settings, shared.ingress, self.number
        position = partition.position
        end = await ingress.end_offset(number)
        if position is None:
            committed = await shared.threads.reading(shared.threads.committed_offset, number)
            refuse_lost_state(settings, number, committed)
            partition.start_at(await ingress.seek(number, None, generation=self._generation))
        else:
            first = await ingress.beginning_offset(number)
            topic_id = shared.cluster.jobs_topic_id
            refuse_foreign_ingress(
                settings, number, position, first, topic_id, shared.stores.place(number)
            )
            for _ in range(END_LOOKS_MAX):
                fault = truncated_ingress(settings, number, position, end)
                if not fault:
                    break
                await asyncio.sleep(RETRY_SECONDS)
                end = await ingress.end_offset(number)
            else:
                raise StartError(fault)
            await ingress.seek(number, position.next_offset, generation=self._generation)
        partition.hold_dispatch_until(end, shared.clock_ms())

    # --- cycles ----------------------------------------------------------------------------

    async def _cycle_until_unwanted(self) -> None:
        partition = self.partition
        while partition is not None and self._is_wanted():
            started = self._shared.monotonic()
            chunk = self._next_chunk()
            self._wake.clear()
            cycle = await self._one_cycle(partition, chunk)
            if cycle is None:
                continue
            due_in_seconds = (cycle.wake_at_ms - self._shared.clock_ms()) / 1000
            apart_seconds = CYCLE_SECONDS_MIN
            if not cycle.egress_topics:
                due_at_seconds = self._shared.monotonic() - started + due_in_seconds
                apart_seconds = min(STORING_SECONDS_MIN, max(apart_seconds, due_at_seconds))
            if not self._buffer and cycle.wake_at_ms > cycle.now_ms:
                await self._sleep(due_in_seconds)
            elif len(cycle.changelog) >= INGRESS_RECORDS_PER_CYCLE_MAX // 8:
                # A full cycle is followed at once; a small one waits for company.
                apart_seconds = 0.0
            rest_seconds = apart_seconds - (self._shared.monotonic() - started)
            await asyncio.sleep(max(0.0, rest_seconds))

    async def _one_cycle(self, partition: Partition, chunk: Chunk | None) -> Cycle | None:
        """Decide, commit, apply; `None` if the partition was given up meanwhile."""
        shared = self._shared
        metrics = shared.metrics
        while self._is_wanted():
            await self._hold_after_a_stall(partition)
            if not self._is_wanted():
                return None
            now_ms = self._read_clock(partition)
            started = shared.monotonic()
            try:
                cycle = partition.run_once(now_ms, chunk)
            except BrokenIndexError as error:
                raise StoreCorrupt(str(error)) from error
            decided = shared.monotonic()
            metrics.cycle_seconds.observe(decided - started)
            changelog_offset = None
            if cycle.needs_transaction:
                try:
                    changelog_offset = await self._commit(cycle)
                except ProducerLostError:
                    # The next producer's first cycle must not run into the same topic.
                    shared.directory.suspect(cycle.egress_topics)
                    raise
                except CycleFailedError as error:
                    if not await self._after_failure(partition, cycle, error):
                        self.failed_cycles += 1
                    continue
                metrics.transaction_seconds.observe(shared.monotonic() - decided)
            # A late apply after a revoke would raise ghosts in a store that moved on.
            if not self._shared.ingress.owns(self.number, self._generation):
                return None
            partition.commit(cycle, changelog_offset)
            self.failed_cycles = 0
            metrics.count(cycle)
            if cycle.needs_transaction:
                # Where the group has an offset there must be state: its loss is told by that.
                shared.ingress.commit_lazily(self.number, partition.next_offset)
            return cycle
        return None

    async def _hold_after_a_stall(self, partition: Partition) -> None:
        """Let nothing leave before what came while the process stood still was read.

        It is as after a takeover: a cancel that was acknowledged meanwhile is seen in time. But it
        takes no longer than the stall, so that a process that is short of CPU goes on.
        """
        shared = self._shared
        while (stalled_seconds := shared.pulse.beat()) != self._stalled_seconds:
            stall_ms = int((stalled_seconds - self._stalled_seconds) * 1000)
            self._stalled_seconds = stalled_seconds
            # Whoever was not told the end within that time has been held long enough.
            with suppress(TimeoutError):
                async with asyncio.timeout(min(stall_ms, INGEST_CATCH_UP_MS_MAX) / 1000):
                    end = await shared.ingress.end_offset(self.number)
                    partition.hold_dispatch_until(end, shared.clock_ms(), stall_ms)

    async def _commit(self, cycle: Cycle) -> int:
        if self._producer is None:
            raise ProducerLostError("the producer was given up")
        return await self._producer.commit(cycle)

    async def _after_failure(
        self, partition: Partition, cycle: Cycle, error: CycleFailedError
    ) -> bool:
        """Undo the cycle; the topics it touched are checked before a job goes there again.

        Returns whether all was as expected: jobs went out to find out which of them are refused.
        """
        self._shared.metrics.transactions_aborted.inc()
        lacking = await self._missing_rights() if error.is_of_rights else ""
        self.failure = lacking or str(error)
        log.warning(
            "transaction aborted, the cycle is run again",
            partition=self.number,
            error=self.failure,
            egress_topics=sorted(cycle.egress_topics)[:5],
        )
        is_expected = bool(error.refusals)
        for topic, (words, of_record) in error.refusals.items():
            if not partition.note_refusal(cycle, topic, words, of_record=of_record):
                is_expected = False
                self._shared.directory.refuse(topic, f"records for it are refused ({words})")
        if not error.refusals and not lacking:
            self._shared.directory.suspect(cycle.egress_topics)
        partition.abort(cycle)
        if not is_expected:
            await asyncio.sleep(RETRY_SECONDS)
        return is_expected

    async def _missing_rights(self) -> str:
        """What we may not do on topics of our own, which every cycle needs; empty for nothing."""
        try:
            return "; ".join(await self._shared.threads.reading(self._shared.missing_rights))
        except KafkaProblem:
            return ""

    def _next_chunk(self) -> Chunk | None:
        """The records for one cycle; what makes room for more says so."""
        chunk = self._buffer.take()
        if chunk is not None and self.has_room():
            self._shared.ingress.wake()
        return chunk

    def _read_clock(self, partition: Partition) -> int:
        """The wall clock; a step back is tolerated, but said, and turns readiness off."""
        now_ms = self._shared.clock_ms()
        behind_ms = partition.last_now_ms - now_ms
        was_back = self.clock_is_back_ms > 0
        self.clock_is_back_ms = behind_ms if behind_ms > CLOCK_STEP_BACK_MS_MAX else 0
        if self.clock_is_back_ms and not was_back:
            log.error(
                "the clock went back; jobs leave by the last known time until it has caught up",
                partition=self.number,
                behind_ms=behind_ms,
            )
        return now_ms

    async def _sleep(self, seconds: float) -> None:
        """Until somebody wakes the runner, at most `seconds`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
