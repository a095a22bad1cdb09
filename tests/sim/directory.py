"""The real directory of egress topics over simulated ones."""

import asyncio
from typing import TYPE_CHECKING, Any

from streamsched.core.destinations import Destination, Problem
from streamsched.engine.producer import BATCH_BYTES_MAX
from streamsched.kafka.directory import EgressDirectory
from streamsched.kafka.egress_survey import Findings

if TYPE_CHECKING:
    from tests.sim.world import World

SURVEY_SECONDS = 2.0


class SimSurvey:
    """One look at the simulated cluster's egress topics, creating those that are missing."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def run_once(
        self, wanted: dict[str, int], suspects: set[str], idle: set[str], now: float
    ) -> Findings:
        """See `EgressSurvey.run_once`."""
        del suspects, idle, now
        found: dict[str, Destination] = {}
        for name, partitions in wanted.items():
            topic = self._world.broker.topics.get(name)
            if topic is None:
                topic = self._world.broker.create(name, partitions)
            if topic.missing:
                found[name] = Destination(name, 0, 0, Problem.MISSING, "is missing")
            else:
                found[name] = Destination(name, len(topic.partitions), topic.max_message_bytes)
        return Findings(found, soon=False)


class SimDirectory(EgressDirectory):
    """The real directory, surveyed by a task in place of a thread."""

    def __init__(self, world: "World", on_change: Any) -> None:
        super().__init__(world.settings, on_change=on_change, message_bytes_min=BATCH_BYTES_MAX)
        self._wake = asyncio.Event()
        self._survey = SimSurvey(world)

    async def follow(self) -> None:
        """Look now and then, and when asked."""
        wake: Any = self._wake
        while True:
            wake.clear()
            self._survey_once(self._survey)
            try:
                async with asyncio.timeout(SURVEY_SECONDS):
                    await wake.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(0.02)
