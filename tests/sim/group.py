"""The group's coordinator: generations, assignments, and members that do not hear of them."""

import asyncio
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.process import SimProcess
    from tests.sim.world import World

REBALANCE_SECONDS_MAX = 3.0
"""How long the others wait for a member that does not answer."""


class Group:
    """Eager rebalances over the members that answer; whoever does not is left out."""

    def __init__(self, world: "World", partitions: int) -> None:
        self._world = world
        self._rng: random.Random = world.rng
        self._partitions = list(range(partitions))
        self.members: list[SimProcess] = []
        self.generation = 0
        self.assignment: dict[SimProcess, frozenset[int]] = {}
        self._is_busy = False
        self._again = False
        self._answered: dict[SimProcess, bool] = {}
        self._change = asyncio.Event()

    def join(self, process: "SimProcess") -> None:
        """A process asks to be a member."""
        if process not in self.members and process.is_alive:
            self.members.append(process)
            self.rebalance()

    def leave(self, process: "SimProcess") -> None:
        """A member is gone: it said so, or its session has run out."""
        if process in self.members:
            self.members.remove(process)
            self._answered[process] = True
            self._change.set()
            self.rebalance()

    def rebalance(self) -> None:
        """Begin a rebalance, or another one after the one under way."""
        self._again = True
        if not self._is_busy:
            self._is_busy = True
            self._world.loop.spawn(None, self._run(), "rebalance")

    async def _run(self) -> None:
        try:
            while self._again:
                self._again = False
                await self._gather()
                if not self._again:
                    self._assign()
        finally:
            self._is_busy = False

    async def _gather(self) -> None:
        """Have every member give up what it has, and leave out those that do not answer."""
        self.generation += 1
        generation = self.generation
        self._world.note(None, f"rebalance to generation {generation}")
        self._answered = dict.fromkeys(self.members, False)
        for process in self.members:
            if not process.is_deaf:
                self._tell_to_give_up(process, generation)
        deadline = self._world.loop.time() + REBALANCE_SECONDS_MAX
        while not all(self._answered.values()) and self._world.loop.time() < deadline:
            self._change.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._change.wait()
            except TimeoutError:
                break
        for process, answered in self._answered.items():
            if not answered and process in self.members:
                self._world.note(process, "is left out of the group")
                self.members.remove(process)

    def hear(self, process: "SimProcess") -> None:
        """A member that was cut off is in touch again, and hears what it has missed."""
        if process not in self.members or not self._answered.get(process, True):
            self._world.note(process, "hears of the rebalance")
            self._tell_to_give_up(process, self.generation)

    def _tell_to_give_up(self, process: "SimProcess", generation: int) -> None:
        """Let the process hear that its generation is over; it joins again if it was left out."""
        delay = self._rng.random() * 0.05

        def done() -> None:
            if process in self.members:
                if generation == self.generation:
                    self._answered[process] = True
                    self._change.set()
            else:
                self.join(process)

        self._world.loop.post(process, delay, process.give_up, generation, done)

    def _assign(self) -> None:
        if not self.members:
            return
        shares: dict[SimProcess, set[int]] = {process: set() for process in self.members}
        partitions = list(self._partitions)
        self._rng.shuffle(partitions)
        first = self._rng.randrange(len(self.members))
        takes_all = self._rng.random() < 0.2
        for number, partition in enumerate(partitions):
            index = first if takes_all else (first + number) % len(self.members)
            shares[self.members[index]].add(partition)
        self.assignment = {process: frozenset(share) for process, share in shares.items()}
        followed = frozenset(self._partitions if self._world.shape.has_standbys else ())
        for process, share in self.assignment.items():
            self._world.loop.post(
                process,
                self._rng.random() * 0.05,
                process.take_over,
                self.generation,
                share,
                followed - share,
            )
