"""One simulated scheduler process: the real runners on a simulated host."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from streamsched.engine.ingress import PartitionIngress
from streamsched.engine.partitions import Ingress
from streamsched.engine.producer import PartitionProducer
from streamsched.engine.pulse import Pulse
from streamsched.engine.runners import PartitionRunners
from streamsched.engine.settings_reader import SettingsReader
from streamsched.engine.shared import Shared
from streamsched.engine.threads import Threads
from tests.sim.clients import SimChangelog, SimProducer
from tests.sim.directory import SimDirectory
from tests.sim.host import Host
from tests.sim.reader import SimReader

if TYPE_CHECKING:
    from tests.sim.world import World

GROUP_COMMIT_SECONDS = 3.0
SETTINGS_SECONDS_MAX = 0.5


class SimThreads(Threads):
    """The pools' names; the loop runs what is given to them."""

    def __init__(self, world: "World") -> None:
        super().__init__(world.settings, world.cluster.partitions)
        self._world = world
        self.producing = _AtOnce()

    def committed_offset(self, partition: int) -> int | None:
        """See `Threads.committed_offset`."""
        return self._world.group_offsets.get(partition)


async def _same_topics() -> bool:
    """No topic of our own is ever made anew."""
    return True


class _AtOnce:
    """Takes what nobody waits for."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run it."""
        function(*arguments)


class SimRunners(PartitionRunners):
    """The real owner of partitions, connected to the simulation instead of a cluster."""

    process: "SimProcess"

    async def start(self) -> None:
        """What the real one does, with what is simulated."""
        process = self.process
        world = process.world
        self.cluster = world.cluster
        process.directory = SimDirectory(world, self._wake_all)
        self._reader = SettingsReader(world.settings, self.view, self._wake_all, self._ingress.fail)
        self._shared = process.share(self, self._reader)
        self.view.topic_id = world.cluster.settings_topic_id

    async def stop(self) -> None:
        """Nothing is left to end."""


class SimProcess:
    """A scheduler process on a host."""

    def __init__(self, world: "World", host: Host, number: int) -> None:
        self.world = world
        self.host = host
        self.name = f"{chr(ord('A') + host.number)}{number}"
        self.is_alive = True
        self.is_deaf = False
        """Cut off from the group's coordinator; it goes on as if nothing were."""
        self.knows_generation = -1
        self.assigned_generation = -1
        self.directory: SimDirectory | None = None
        self.reader: SimReader | None = None
        self.ingress = PartitionIngress(self._make_owner, self._fail)
        self.runners: SimRunners
        self._turns: asyncio.Queue[Any] | None = None

    def __repr__(self) -> str:
        return self.name

    def _make_owner(self, ingress: Ingress) -> SimRunners:
        runners = self.world.protocol.runners(self.world.settings, ingress)
        runners.process = self
        self.runners = runners
        return runners

    def share(self, runners: SimRunners, reader: SettingsReader) -> Shared:
        """Everything that the runners touch of the outside."""
        world = self.world
        threads = SimThreads(world)

        def make_producer(number: int) -> PartitionProducer:
            identity = f"{world.settings.app_id}-{number}"
            client = SimProducer(
                world.broker, world.faults, lambda what: self.effect(f"{what} {number}"), identity
            )
            return world.protocol.producer(
                client,
                number,
                world.names.changelog,
                threads.producing,
                world.loop.time,
            )

        return Shared(
            settings=world.settings,
            cluster=world.cluster,
            ingress=self.ingress,
            view=runners.view,
            directory=self.directory,
            metrics=runners.metrics,
            pulse=Pulse(world.loop.time, self.host.clock.now_ms, reader.doubt),
            threads=threads,
            stores=world.protocol.stores(self.host.disk, self.effect),
            make_producer=make_producer,
            open_changelog=lambda number: SimChangelog(
                world.broker, world.faults, self.effect, world.names.changelog, number
            ),
            look_at_topics=_same_topics,
            missing_rights=list,
            clock_ms=self.host.clock.now_ms,
            monotonic=world.loop.time,
        )

    # --- life ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start everything that runs in the process."""
        self.world.loop.spawn(self, self._run(), f"{self.name} main")

    async def _run(self) -> None:
        self._turns = asyncio.Queue()
        self.reader = SimReader(self.world)
        self.ingress.attach(self.reader)
        await self.ingress.start()
        directory = self.directory
        if directory is None:
            raise AssertionError("the owner was not started")
        loop = self.world.loop
        loop.create_task(directory.follow(), name=f"{self.name} directory")
        loop.create_task(self._follow_settings(), name=f"{self.name} settings")
        loop.create_task(self.runners._shared.pulse.run(), name=f"{self.name} pulse")
        loop.create_task(self._pump(), name=f"{self.name} pump")
        loop.create_task(self._commit_group_offsets(), name=f"{self.name} group offsets")
        self.world.group.join(self)
        while True:
            turn = await self._turns.get()
            await turn()

    async def _pump(self) -> None:
        while True:
            for fetched in await self.ingress.next_chunks():
                self.ingress.accept(fetched)
            await asyncio.sleep(0)

    async def _commit_group_offsets(self) -> None:
        while True:
            await asyncio.sleep(GROUP_COMMIT_SECONDS)
            await self.ingress.commit_group_offsets()

    async def _follow_settings(self) -> None:
        """The real feed of the view, from the simulated log."""
        reader: Any = self.runners._reader
        offset = 0
        log = self.world.broker.log(self.world.names.tenant_settings)
        while True:
            found, position = log.read(offset, 10)
            answers = reader._doubts if position >= log.stable else None
            # The answer is on its way: a process that stands still meanwhile is given old news.
            await asyncio.sleep(self.world.rng.random() * SETTINGS_SECONDS_MAX)
            offset = position
            reader._feed([(entry.offset, entry.key, entry.value) for entry in found], answers)

    def _fail(self, error: BaseException) -> None:
        self.world.process_failed(self, error)

    def effect(self, what: str) -> None:
        """Called before everything that outlives the process; may be its end."""
        self.world.effect(self, what)

    # --- for the group ---------------------------------------------------------------------

    def give_up(self, generation: int, done: Callable[[], None]) -> None:
        """A rebalance begins: own nothing from this moment; tell when all is given up."""
        if generation < self.knows_generation or generation <= self.assigned_generation:
            return
        self.knows_generation = generation
        self.ingress.suspend()
        if self.reader is not None:
            self.reader.forget()

        async def turn() -> None:
            await self.ingress.revoke()
            done()

        self._enqueue(turn)

    def take_over(
        self, generation: int, partitions: frozenset[int], standbys: frozenset[int]
    ) -> None:
        """A rebalance has ended with this assignment."""
        if generation < self.knows_generation:
            return

        async def turn() -> None:
            if generation < self.knows_generation:
                return
            self.assigned_generation = generation
            self.ingress.admit(generation)
            self.ingress.assign(partitions, standbys, generation)
            self.world.note(self, f"assigned {sorted(partitions)} generation {generation}")

        self._enqueue(turn)

    def leave(self, done: Callable[[], None]) -> None:
        """SIGTERM: give up everything, then end."""
        self.ingress.suspend()

        async def turn() -> None:
            await self.ingress.leave()
            done()

        self._enqueue(turn)

    def _enqueue(self, turn: Any) -> None:
        if self._turns is not None:
            self._turns.put_nowait(turn)
