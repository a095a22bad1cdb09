"""The main loop's side of reading: who owns what, what is in flight, which chunk is stale.

Everything here runs on the main event loop, but `admit`, `suspend`, `forbid` and `note_unstable`,
which the reader (`engine.reader`) calls on its own thread.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
from aiokafka.errors import KafkaError

from streamsched.engine.partitions import (
    REVOKE_SECONDS_MAX,
    ROOM_POLL_SECONDS,
    IngressChunk,
    OwnerFactory,
    PartitionLostError,
    PartitionOwner,
)

OUTSIDE_OF_GROUP: Final = -1
FETCH_SECONDS: Final = 1.0
"""How long one look for records lasts; `wake` ends it."""
IN_FLIGHT_SECONDS_MAX: Final = 3.0
"""How long a chunk may be on its way through the frame's streams, which take a millisecond."""

ANNOUNCE_RETRY_SECONDS: Final = 1.0
FORBIDDEN_SECONDS: Final = 3.0
"""How long a refusal to be read counts; the broker is asked several times a second."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FetchedChunk:
    """A chunk and the epoch of the seek that it follows; older ones are stale."""

    epoch: int
    chunk: IngressChunk


class Reader(Protocol):
    """What the ingress asks of the thread that reads."""

    async def seek_to(
        self, partition: int, offset: int | None, *, generation: int, epoch: int
    ) -> int:
        """Start `partition` there, so that its chunks carry `epoch`; return the offset."""
        ...

    async def fetch(self, wanted: frozenset[int], seconds: float) -> Sequence[FetchedChunk]:
        """At most one chunk of each wanted partition, after at most `seconds`."""
        ...

    def wake(self) -> None:
        """End the `fetch` under way, or else the next one."""
        ...

    async def first_offset(self, partition: int) -> int:
        """The earliest offset."""
        ...

    async def stable_offset(self, partition: int) -> int:
        """The last stable offset."""
        ...

    async def commit_group_offsets(self, offsets: dict[int, int]) -> None:
        """Commit for lag tools; raises what aiokafka raises."""
        ...

    async def leave_group(self) -> None:
        """Leave at once, so that the others take over without waiting for a timeout."""
        ...


@dataclass(slots=True)
class _Lane:
    """One owned partition: which seek counts, and whether a chunk is on its way."""

    epoch: int = 0
    sought: bool = False
    in_flight: FetchedChunk | None = None
    in_flight_since: float = 0.0
    delivery: asyncio.Task[None] | None = None


class PartitionIngress:
    """The `Ingress` of a process, and the frame's own door to the `PartitionOwner`."""

    def __init__(self, owner_factory: OwnerFactory, crash: Callable[[BaseException], None]) -> None:
        self._crash = crash
        self._lanes: dict[int, _Lane] = {}
        self._generation = OUTSIDE_OF_GROUP
        # Written on the reader's thread: it ends a generation before the main loop hears of it.
        self._admitted = OUTSIDE_OF_GROUP
        self._epoch = 0
        self._offsets: dict[int, int] = {}
        self._announcement: asyncio.Task[None] | None = None
        self._reader: Reader | None = None
        self._started = False
        self._forbidden_at = -FORBIDDEN_SECONDS
        self._unstable: dict[int, int] = {}
        self._owner: PartitionOwner = owner_factory(self)

    # --- what the owner may ask -----------------------------------------------------------

    def generation(self) -> int:
        """The group generation; -1 outside of the group and during a rebalance."""
        return self._generation if self._generation == self._admitted else OUTSIDE_OF_GROUP

    def owns(self, partition: int, generation: int) -> bool:
        """Whether `partition` is this process's under `generation`, which still lasts."""
        return generation == self._generation == self._admitted and partition in self._lanes

    async def seek(self, partition: int, offset: int | None, *, generation: int) -> int:
        """See `partitions.Ingress.seek`."""
        lane = self._lane(partition, generation)
        self._epoch += 1
        epoch = lane.epoch = self._epoch
        lane.sought = False
        start = await self._attached().seek_to(
            partition, offset, generation=generation, epoch=epoch
        )
        if self._lane(partition, generation).epoch == epoch:
            lane.sought = True
            self.wake()
        return start

    async def end_offset(self, partition: int) -> int:
        """See `partitions.Ingress.end_offset`."""
        return await self._attached().stable_offset(partition)

    async def beginning_offset(self, partition: int) -> int:
        """See `partitions.Ingress.beginning_offset`."""
        return await self._attached().first_offset(partition)

    def wake(self) -> None:
        """See `partitions.Ingress.wake`."""
        if self._reader is not None:
            self._reader.wake()

    def commit_lazily(self, partition: int, offset: int) -> None:
        """See `partitions.Ingress.commit_lazily`."""
        self._offsets[partition] = offset

    def unstable_records(self, partition: int) -> int:
        """See `partitions.Ingress.unstable_records`."""
        return self._unstable.get(partition, 0)

    def is_forbidden(self) -> bool:
        """See `partitions.Ingress.is_forbidden`."""
        return time.monotonic() - self._forbidden_at < FORBIDDEN_SECONDS

    def fail(self, error: BaseException) -> None:
        """See `partitions.Ingress.fail`."""
        self._crash(error)

    # --- what the frame does --------------------------------------------------------------

    def attach(self, reader: Reader) -> None:
        """Use `reader` from now on."""
        self._reader = reader

    async def start(self) -> None:
        """Start the owner, before the group is joined."""
        self._started = True
        await self._owner.start()

    async def stop(self) -> None:
        """Stop the owner, once the group was left; bounded like a revoke."""
        if self._started:
            self._started = False
            await self._bounded("stop", asyncio.ensure_future(self._owner.stop()))

    def admit(self, generation: int) -> None:
        """From the reader's thread: `generation` has begun."""
        self._admitted = generation

    def suspend(self) -> None:
        """From the reader's thread, as soon as a rebalance starts: own nothing from now on."""
        self._admitted = OUTSIDE_OF_GROUP

    def forbid(self) -> None:
        """From the reader's thread: the broker does not let us read the topic."""
        self._forbidden_at = time.monotonic()

    def note_unstable(self, partition: int, records: int) -> None:
        """From the reader's thread: what of `partition` cannot be read yet."""
        self._unstable[partition] = records

    async def revoke(self) -> None:
        """Have the owner give up all its partitions; never raises, bounded in time."""
        self.suspend()
        self._generation = OUTSIDE_OF_GROUP
        lanes, self._lanes = self._lanes, {}
        self._offsets.clear()
        if self._announcement is not None:
            self._announcement.cancel()
            self._announcement = None
        if lanes:
            given_up = asyncio.ensure_future(self._owner.on_revoked(frozenset(lanes)))
            await self._bounded("on_revoked", given_up)
        for lane in lanes.values():
            if lane.delivery is not None:
                lane.delivery.cancel()

    def assign(self, partitions: frozenset[int], standbys: frozenset[int], generation: int) -> None:
        """Own `partitions` under `generation` and tell the owner, again and again if it fails."""
        self._lanes = {partition: _Lane() for partition in partitions}
        self._unstable = {}
        self._generation = generation
        self._announcement = asyncio.create_task(
            self._announce(partitions, standbys, generation), name="announce assignment"
        )

    async def leave(self) -> None:
        """Give up everything and leave the group; never raises, bounded in time."""
        await self.revoke()
        if self._reader is not None:
            await self._bounded("leave_group", asyncio.ensure_future(self._reader.leave_group()))

    async def next_chunks(self) -> Sequence[FetchedChunk]:
        """Chunks of partitions that want one, each marked as in flight."""
        self._accept_overdue()
        idle = {p: lane for p, lane in self._lanes.items() if lane.sought and not lane.in_flight}
        wanted = frozenset(partition for partition in idle if self._owner.room(partition))
        seconds = FETCH_SECONDS if len(wanted) == len(idle) else ROOM_POLL_SECONDS
        fetched = await self._attached().fetch(wanted, seconds)
        current = [one for one in fetched if self._is_current(one)]
        for one in current:
            lane = self._lanes[one.chunk.partition]
            lane.in_flight, lane.in_flight_since = one, time.monotonic()
        return current

    def _accept_overdue(self) -> None:
        """Take chunks that the frame has lost on their way, without it.

        Around a rebalance its streams and queues drop messages without a word, and the partition
        would wait for its chunk for ever.
        """
        latest = time.monotonic() - IN_FLIGHT_SECONDS_MAX
        for partition, lane in self._lanes.items():
            overdue = lane.in_flight
            if overdue is None or lane.delivery is not None or lane.in_flight_since > latest:
                continue
            log.warning("chunk got lost in the frame, taken without it", partition=partition)
            self.accept(overdue)

    def accept(self, fetched: FetchedChunk) -> None:
        """Hand a chunk that came through the agent to the owner, in a task of its own.

        Not awaited by the agent: Faust cancels an actor whose partition is revoked, and an
        actor cancelled half-way in a delivery is started again for a partition that is lost.
        """
        chunk = fetched.chunk
        lane = self._lanes.get(chunk.partition)
        if lane is None or lane.in_flight is not fetched or lane.delivery is not None:
            return
        if not self._is_current(fetched):
            lane.in_flight = None
            self.wake()
            return
        lane.delivery = asyncio.create_task(
            self._deliver(lane, chunk), name=f"deliver {chunk.partition}"
        )

    async def commit_group_offsets(self) -> None:
        """Commit what `commit_lazily` noted; failures are only logged."""
        offsets = {p: offset for p, offset in self._offsets.items() if p in self._lanes}
        self._offsets.clear()
        if not offsets or self._reader is None:
            return
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                await self._reader.commit_group_offsets(offsets)
        except (KafkaError, TimeoutError) as error:
            log.debug("group offsets not committed", error=repr(error))

    # --- inside ---------------------------------------------------------------------------

    def _attached(self) -> Reader:
        if self._reader is None:
            raise PartitionLostError("the consumer is not started")
        return self._reader

    def _lane(self, partition: int, generation: int) -> _Lane:
        if not self.owns(partition, generation):
            raise PartitionLostError(
                f"ingress partition {partition} is not owned under generation {generation}"
            )
        return self._lanes[partition]

    def _is_current(self, fetched: FetchedChunk) -> bool:
        chunk = fetched.chunk
        if not self.owns(chunk.partition, chunk.generation):
            return False
        return self._lanes[chunk.partition].epoch == fetched.epoch

    async def _deliver(self, lane: _Lane, chunk: IngressChunk) -> None:
        try:
            await self._owner.deliver(chunk.partition, chunk)
        except Exception as error:  # noqa: BLE001 - whatever it is, the process must not go on
            if self.owns(chunk.partition, chunk.generation):
                self.fail(error)
        finally:
            lane.in_flight = lane.delivery = None
            self.wake()

    async def _announce(
        self, partitions: frozenset[int], standbys: frozenset[int], generation: int
    ) -> None:
        while generation == self.generation():
            try:
                await self._owner.on_assigned(partitions, standbys, generation)
            except Exception:
                log.exception("on_assigned failed, trying again", generation=generation)
                await asyncio.sleep(ANNOUNCE_RETRY_SECONDS)
            else:
                return

    async def _bounded(self, what: str, task: asyncio.Future[None]) -> None:
        """Wait for `task` no longer than the group can; a late one is cancelled, not awaited."""
        await asyncio.wait({task}, timeout=REVOKE_SECONDS_MAX)
        if not task.done():
            log.warning("not finished in time, abandoned", step=what, seconds=REVOKE_SECONDS_MAX)
            task.cancel()
        elif not task.cancelled() and task.exception() is not None:
            log.error("step failed", step=what, exc_info=task.exception())
