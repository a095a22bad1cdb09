"""What becomes of a chunk between the reader and the owner of its partition."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from streamsched.engine import ingress as ingress_module
from streamsched.engine.ingress import FetchedChunk, PartitionIngress
from streamsched.engine.partitions import IngressChunk

pytestmark = pytest.mark.unit

GENERATION = 3


class Reader:
    """Hands out one chunk after the other, each ten offsets long."""

    def __init__(self) -> None:
        self.position = 0
        self.epoch = 0

    async def seek_to(
        self, partition: int, offset: int | None, *, generation: int, epoch: int
    ) -> int:
        """Begin there."""
        del partition, generation
        self.position, self.epoch = offset or 0, epoch
        return self.position

    async def fetch(self, wanted: frozenset[int], seconds: float) -> Sequence[FetchedChunk]:
        """The next chunk of partition 0, if it is wanted."""
        del seconds
        if 0 not in wanted:
            return []
        start, self.position = self.position, self.position + 10
        return [FetchedChunk(self.epoch, IngressChunk(0, GENERATION, start, self.position, ()))]

    def wake(self) -> None:
        """Nobody waits."""


class Owner:
    """Wants everything and notes where chunks start."""

    def __init__(self) -> None:
        self.starts: list[int] = []

    def room(self, partition: int) -> bool:
        """Always."""
        return partition == 0

    async def on_assigned(self, *_arguments: Any) -> None:
        """Nothing to prepare."""

    async def deliver(self, partition: int, chunk: IngressChunk) -> None:
        """Take it."""
        assert partition == 0
        self.starts.append(chunk.start)


def test_chunk_that_the_frame_loses_is_taken_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is delivered once, also if it turns up later, and the next one follows."""
    owner = Owner()

    async def scenario() -> None:
        ingress = PartitionIngress(lambda _: owner, crash=pytest.fail)
        ingress.attach(Reader())
        ingress.admit(GENERATION)
        ingress.assign(frozenset({0}), frozenset(), GENERATION)
        await ingress.seek(0, 0, generation=GENERATION)
        [lost] = await ingress.next_chunks()
        assert await ingress.next_chunks() == []
        monkeypatch.setattr(ingress_module, "IN_FLIGHT_SECONDS_MAX", -1.0)
        assert await ingress.next_chunks() == []
        monkeypatch.undo()
        await asyncio.sleep(0)
        assert owner.starts == [0]
        [after] = await ingress.next_chunks()
        ingress.accept(lost)
        ingress.accept(after)
        ingress.accept(after)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert owner.starts == [0, 10]

    asyncio.run(scenario())
