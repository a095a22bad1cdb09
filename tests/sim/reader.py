"""Reading the simulated ingress, as the reader's thread does for the real `PartitionIngress`."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiokafka.errors import KafkaTimeoutError

from streamsched.engine.ingress import FetchedChunk
from streamsched.engine.partitions import IngressChunk

if TYPE_CHECKING:
    from tests.sim.world import World


class SimReader:
    """What `PartitionIngress` asks of the thread that reads."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._marks: dict[int, tuple[int, int, int]] = {}
        self._wake = asyncio.Event()

    async def seek_to(
        self, partition: int, offset: int | None, *, generation: int, epoch: int
    ) -> int:
        await self._latency()
        start = self._world.jobs_log(partition).low if offset is None else offset
        self._marks[partition] = (epoch, generation, start)
        return start

    async def fetch(self, wanted: frozenset[int], seconds: float) -> Sequence[FetchedChunk]:
        await self._latency()
        found = self._look(wanted)
        if not found:
            waiting = self._world.broker.on_append.setdefault(self._world.names.jobs, {})
            waiting[self._wake.set] = None
            try:
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            except TimeoutError:
                pass
            await self._latency()
            found = self._look(wanted)
        self._wake.clear()
        return found

    def _look(self, wanted: frozenset[int]) -> list[FetchedChunk]:
        chunks: list[FetchedChunk] = []
        if self._world.faults.is_outage:
            return chunks
        for partition in sorted(wanted):
            mark = self._marks.get(partition)
            if mark is None:
                continue
            epoch, generation, start = mark
            most = self._world.rng.choice((1, 2, 5, 1_000))
            records, end = self._world.jobs_log(partition).read(start, most)
            if end == start:
                continue
            self._marks[partition] = (epoch, generation, end)
            chunks.append(
                FetchedChunk(epoch, IngressChunk(partition, generation, start, end, records))
            )
        return chunks

    def forget(self) -> None:
        """A rebalance has begun: nothing is read before the next seek."""
        self._marks.clear()

    def wake(self) -> None:
        self._wake.set()

    async def first_offset(self, partition: int) -> int:
        await self._latency()
        self._refuse_in_outage()
        return self._world.jobs_log(partition).low

    async def stable_offset(self, partition: int) -> int:
        await self._latency()
        self._refuse_in_outage()
        return self._world.jobs_log(partition).stable

    async def commit_group_offsets(self, offsets: dict[int, int]) -> None:
        self._world.group_offsets.update(offsets)

    async def leave_group(self) -> None:
        await self._latency()

    def _refuse_in_outage(self) -> None:
        if self._world.faults.strikes("ingress is unreadable"):
            raise KafkaTimeoutError("the ingress: no answer")

    async def _latency(self) -> None:
        await asyncio.sleep(self._world.rng.random() * 0.005)
