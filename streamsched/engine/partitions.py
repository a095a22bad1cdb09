"""The boundary between the Faust frame and what is done with each ingress partition.

The frame (`engine.app`, `engine.transport`) keeps the membership of the group and reads the
ingress topic. A `PartitionOwner` recovers, runs and gives up partitions. It is told which ones
are its own, says when it wants records, and is handed them in whole chunks. All calls in both
directions are made on the main event loop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from streamsched.core.commands import IngressRecord

REVOKE_SECONDS_MAX: Final = 2.0
"""How long the rest of the group waits for an owner that gives up partitions."""

ROOM_POLL_SECONDS: Final = 0.1
"""How late at most the frame notices that a partition has room, if nobody called `wake`."""


class PartitionLostError(Exception):
    """The partition is not this process's under that generation any more; give it up."""


@dataclass(frozen=True, slots=True)
class IngressChunk:
    """Records of one ingress partition, without a hole between one chunk and the next.

    `start` is the offset that was sought, or the `end` of the chunk before. `end` is the
    position after the chunk, past the markers of transactions and records of aborted ones, so it
    can be greater than the last record's offset plus one. A chunk without records tells only
    that the position went past such markers; without it, a reader who waits for the end of a log
    that closes with a marker would wait for ever.
    """

    partition: int
    generation: int
    start: int
    end: int
    records: Sequence[IngressRecord]


class PartitionOwner(Protocol):
    """What the frame drives. An exception from `start` or `deliver` ends the process."""

    async def start(self) -> None:
        """Called once, before the group is joined."""
        ...

    async def on_assigned(
        self, partitions: frozenset[int], standbys: frozenset[int], generation: int
    ) -> None:
        """After each rebalance: ALL ingress partitions this process now owns, retained ones too.

        Must return at once: it only starts tasks. No partition is fetched before
        `Ingress.seek` was called for it under this `generation`. The rebalance protocol is
        eager, so `on_revoked` was called for every partition owned before.
        """
        ...

    async def on_revoked(self, partitions: frozenset[int]) -> None:
        """Give up `partitions`: before a rebalance, at the end, and when the group is lost.

        Awaited, cancelled after `REVOKE_SECONDS_MAX`: the group waits for it. By then
        `Ingress.owns` already answers False and no chunk is delivered any more.
        """
        ...

    def room(self, partition: int) -> bool:
        """Whether another chunk of `partition` is wanted now; must be cheap.

        When the answer turns to True, call `Ingress.wake`, else it is noticed up to
        `ROOM_POLL_SECONDS` later.
        """
        ...

    async def deliver(self, partition: int, chunk: IngressChunk) -> None:
        """Take one chunk. Never called twice at a time for a partition.

        The partition's next chunk is fetched once this has returned and `room` says so.
        """
        ...

    async def stop(self) -> None:
        """Called once, after the last `on_revoked` and after the group was left."""
        ...


class Ingress(Protocol):
    """What an owner may ask of the frame. Offsets are of the ingress topic."""

    async def seek(self, partition: int, offset: int | None, *, generation: int) -> int:
        """Fetch `partition` from `offset` on (`None`: its earliest) and return that offset.

        Chunks that were read before are not delivered any more. May be called again at any
        time, also while a chunk is being delivered. Raises `PartitionLostError` if the partition
        is not owned under `generation`.
        """
        ...

    async def end_offset(self, partition: int) -> int:
        """The last stable offset: what a read_committed reader can reach now.

        Raises `aiokafka.errors.KafkaError` when the broker does not answer in time.
        """
        ...

    async def beginning_offset(self, partition: int) -> int:
        """The earliest offset that the partition still holds; raises as `end_offset` does."""
        ...

    def generation(self) -> int:
        """The group generation now; -1 outside of the group and during a rebalance."""
        ...

    def owns(self, partition: int, generation: int) -> bool:
        """Whether `partition` is this process's, and has been since `generation` began."""
        ...

    def wake(self) -> None:
        """`room` may answer differently now."""
        ...

    def commit_lazily(self, partition: int, offset: int) -> None:
        """Note `offset` for the group, committed every few seconds; lag tools read it, we never.

        Never blocks or raises; what concerns partitions lost meanwhile is dropped.
        """
        ...

    def unstable_records(self, partition: int) -> int:
        """Offsets from the last stable one to the end, by the last fetch; nobody can read them yet.

        They are those of open transactions, and all that lies behind the first of them.
        """
        ...

    def is_forbidden(self) -> bool:
        """Whether the broker refused a moment ago to let us read the topic."""
        ...

    def fail(self, error: BaseException) -> None:
        """End this process with a failure status and `error` in the log."""
        ...


OwnerFactory = Callable[[Ingress], PartitionOwner]
"""Makes the owner, once for a process, before the event loop runs."""
