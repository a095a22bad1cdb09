"""One simulated scheduler process: the real runners on a simulated host."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from streamsched.core.destinations import Destination, Problem
from streamsched.engine.ingress import FetchedChunk, PartitionIngress
from streamsched.engine.partitions import Ingress, IngressChunk
from streamsched.engine.producer import BATCH_BYTES_MAX, PartitionProducer
from streamsched.engine.runners import PartitionRunners
from streamsched.engine.settings_reader import SettingsReader
from streamsched.engine.shared import Shared
from streamsched.engine.threads import Threads
from streamsched.kafka.directory import EgressDirectory
from streamsched.kafka.egress_survey import Findings
from tests.sim.clients import SimChangelog, SimProducer
from tests.sim.disk import Disk

if TYPE_CHECKING:
    from tests.sim.world import World

START_MS = 1_800_000_000_000
SURVEY_SECONDS = 2.0
GROUP_COMMIT_SECONDS = 3.0
SETTINGS_SECONDS_MAX = 0.5


class Clock:
    """The wall clock of a host: it drifts, and is set forward and back."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.offset_ms = 0.0
        self.drift = 0.0

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        seconds = self._now()
        return START_MS + int(seconds * 1000 * (1 + self.drift) + self.offset_ms)

    def error_ms(self) -> float:
        """How far it is ahead of true time."""
        return self._now() * 1000 * self.drift + self.offset_ms


class Host:
    """What outlives a process: its disk and its clock."""

    def __init__(self, number: int, now: Callable[[], float]) -> None:
        self.number = number
        self.disk = Disk()
        self.clock = Clock(now)


class SimThreads(Threads):
    """The pools' names; the loop runs what is given to them."""

    def __init__(self, world: "World") -> None:
        super().__init__(world.settings, world.cluster.partitions)
        self._world = world
        self.producing = _AtOnce()  # type: ignore[assignment]

    def committed_offset(self, partition: int) -> int | None:
        """See `Threads.committed_offset`."""
        return self._world.group_offsets.get(partition)


class _AtOnce:
    """Takes what nobody waits for."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run it."""
        function(*arguments)


class SimSurvey:
    """One look at the simulated cluster's egress topics, creating those that are missing."""

    def __init__(self, world: "World", process: "SimProcess") -> None:
        self._world = world
        self._process = process

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

    def __init__(self, world: "World", process: "SimProcess", on_change: Any) -> None:
        super().__init__(world.settings, on_change=on_change, message_bytes_min=BATCH_BYTES_MAX)
        self._wake = asyncio.Event()  # type: ignore[assignment]
        self._survey = SimSurvey(world, process)

    async def follow(self) -> None:
        """Look now and then, and when asked."""
        wake: Any = self._wake
        while True:
            wake.clear()
            self._survey_once(self._survey)  # type: ignore[arg-type]
            try:
                async with asyncio.timeout(SURVEY_SECONDS):
                    await wake.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(0.02)


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
        return self._world.jobs_log(partition).low

    async def stable_offset(self, partition: int) -> int:
        await self._latency()
        return self._world.jobs_log(partition).stable

    async def commit_group_offsets(self, offsets: dict[int, int]) -> None:
        self._world.group_offsets.update(offsets)

    async def leave_group(self) -> None:
        await self._latency()

    async def _latency(self) -> None:
        await asyncio.sleep(self._world.rng.random() * 0.005)


class SimRunners(PartitionRunners):
    """The real owner of partitions, connected to the simulation instead of a cluster."""

    process: "SimProcess"

    async def start(self) -> None:
        """What the real one does, with what is simulated."""
        process = self.process
        world = process.world
        self.cluster = world.cluster
        process.directory = SimDirectory(world, process, self._wake_all)
        self._shared = process.share(self)
        self.view.topic_id = world.cluster.settings_topic_id
        self._reader = SettingsReader(world.settings, self.view, self._wake_all, self._ingress.fail)

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

    def share(self, runners: SimRunners) -> Shared:
        """Everything that the runners touch of the outside."""
        world = self.world
        threads = SimThreads(world)

        def make_producer(number: int) -> PartitionProducer:
            identity = f"{world.settings.app_id}-{number}"
            client = SimProducer(
                world.broker, world.faults, lambda what: self.effect(f"{what} {number}"), identity
            )
            return world.protocol.producer(
                client,  # type: ignore[arg-type]
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
            directory=self.directory,  # type: ignore[arg-type]
            metrics=runners.metrics,
            threads=threads,
            stores=world.protocol.stores(self.host.disk, self.effect),
            make_producer=make_producer,
            open_changelog=lambda number: SimChangelog(
                world.broker, world.faults, self.effect, world.names.changelog, number
            ),
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
            await asyncio.sleep(self.world.rng.random() * SETTINGS_SECONDS_MAX)
            found, position = log.read(offset, 10)
            records = [(entry.offset, entry.key, entry.value) for entry in found]
            offset = position
            reader._feed(records, position >= log.stable)

    def _fail(self, error: BaseException) -> None:
        self.world.process_failed(self, error)

    def effect(self, what: str) -> None:
        """Called before everything that outlives the process; may be its end."""
        self.world.effect(self, what)

    # --- for the group ---------------------------------------------------------------------

    def give_up(self, generation: int, done: Callable[[], None]) -> None:
        """A rebalance begins: own nothing from this moment; tell when all is given up."""
        if generation < self.knows_generation:
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
