"""Faust's Kafka transport with its data path replaced: whole chunks, from explicit positions.

Faust's own consumer makes one task per record and starts at the group's committed offsets. This
one hands on up to `INGRESS_RECORDS_PER_CYCLE_MAX` records as one message, whenever a partition
wants them, and knows nothing of acknowledgements.
"""
# ruff: noqa: SLF001 - it overrides Faust, whose signatures are loose;
# tests/unit/test_faust_assumptions.py names what is relied on.

import asyncio
from collections.abc import Mapping
from typing import Any, Final, cast

from aiokafka.errors import ConsumerStoppedError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode import Service

from streamsched.engine.ingress import FetchedChunk, PartitionIngress
from streamsched.engine.reader import ReaderThread, RebalanceListener
from streamsched.settings import Settings

GROUP_COMMIT_SECONDS: Final = 3.0


class ChunkConsumer(driver.Consumer):
    """Faust's consumer whose messages are whole chunks. Faust's acks and offsets are unused."""

    abstract = False
    RebalanceListener = RebalanceListener
    transport: "ChunkTransport"

    @property
    def ingress(self) -> PartitionIngress:
        """The main loop's side of reading."""
        return self.transport.ingress

    @property
    def ingress_topic(self) -> str:
        """The only topic that is ever fetched."""
        return self.transport.settings.names.jobs

    def _new_consumer_thread(self) -> ReaderThread:
        thread = ReaderThread(self, loop=self.loop, beacon=self.beacon)
        self.ingress.attach(thread)
        return thread

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """The owner first, while we still are in the group."""
        await self.ingress.revoke()
        await super().on_partitions_revoked(revoked)

    async def perform_seek(self) -> None:
        """Nothing: each partition is sought by its runner once its state is recovered."""

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing: Faust's record of gaps grows with every transaction marker."""

    async def _drain_messages(self, fetcher: Any) -> None:
        stopping = (self._stopped.is_set, fetcher._stopped.is_set)
        try:
            while not any(is_set() for is_set in stopping):
                if not self.flow_active:
                    await self.wait(cast("Any", self.can_resume_flow))
                    continue
                for fetched in await self.ingress.next_chunks():
                    await self.wait_first(
                        self.callback(self._chunk_message(fetched)), self.suspend_flow.wait()
                    )
        except ConsumerStoppedError:
            if not self.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise

    def _chunk_message(self, fetched: FetchedChunk) -> ConsumerMessage:
        chunk = fetched.chunk
        tp = TP(self.ingress_topic, chunk.partition)
        # A stream skips, silently, a message of another generation than the app's.
        return ConsumerMessage(
            *tp, chunk.start, 0.0, 0, None, None, cast("Any", fetched), None, 0, 0, tp,
            generation_id=chunk.generation,
        )  # fmt: skip

    def close(self) -> None:
        """Nothing: Faust would close the thread's sockets on the main loop while stopping."""

    @Service.task
    async def _commit_handler(self) -> None:
        async for _ in self.itertimer(GROUP_COMMIT_SECONDS, name="group offsets"):
            await self.ingress.commit_group_offsets()

    @Service.task
    async def _commit_livelock_detector(self) -> None:
        """Nothing: a partition that is not fetched is one without room, not a fault."""


class ChunkTransport(driver.Transport):
    """The transport of the scheduler's app."""

    Consumer = ChunkConsumer

    def __init__(
        self,
        *args: Any,
        ingress: PartitionIngress,
        settings: Settings,
        connection: Mapping[str, Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.ingress = ingress
        self.settings = settings
        self.connection = connection
