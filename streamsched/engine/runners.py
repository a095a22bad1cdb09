"""All partitions of a process: the `PartitionOwner` that the Faust frame drives."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import IO, Final

import structlog

from streamsched.core.names import TopicNames
from streamsched.core.settings_view import SettingsView
from streamsched.engine.changelog import ChangelogConsumer
from streamsched.engine.cluster import Cluster, inspect_when_there
from streamsched.engine.follower import Follower
from streamsched.engine.metrics import Metrics
from streamsched.engine.partitions import Ingress, IngressChunk, OwnerFactory
from streamsched.engine.patience import Patience
from streamsched.engine.producer import BATCH_BYTES_MAX, PartitionProducer, connect
from streamsched.engine.pulse import Pulse
from streamsched.engine.reader import StartError
from streamsched.engine.runner import Runner
from streamsched.engine.settings_reader import SettingsReader
from streamsched.engine.shared import Phase, Shared
from streamsched.engine.stores import RocksStores
from streamsched.engine.tenant_topics import TenantTopics
from streamsched.engine.threads import Threads
from streamsched.engine.topic_watch import TopicWatch
from streamsched.kafka.connection import Connection
from streamsched.kafka.directory import EgressDirectory
from streamsched.kafka.granted import missing_rights, unseen_prefixes
from streamsched.kafka.rights import (
    Kind,
    Operation,
    Resource,
    Role,
    lacks,
    rights_of,
    scheduler_at_tenant_topics,
)
from streamsched.settings import Settings
from streamsched.store.errors import StoreError
from streamsched.store.folder import claim
from streamsched.store.rocks_options import process_cache
from streamsched.web.server import WebServer

STOP_SECONDS: Final = 1.7
"""Within what the frame grants for a revoke."""

GAUGES_SECONDS: Final = 1.0
FAILED_CYCLES_MIN: Final = 3
"""Transactions that have failed in a row before a partition is called unready for it; a topic that
has just broken costs one or two."""

log = structlog.get_logger()


def runners_factory(settings: Settings) -> OwnerFactory:
    """What `create_app` wants: makes the runners once the ingress is there."""
    return partial(PartitionRunners, settings)


class PartitionRunners:
    """Starts a runner for each assigned partition, and what they share once for the process."""

    def __init__(self, settings: Settings, ingress: Ingress) -> None:
        """Nothing is connected before `start`."""
        self.settings = settings
        self.metrics = Metrics()
        self.view = SettingsView(settings.names)
        self.cluster: Cluster | None = None
        self.runners: dict[int, Runner] = {}
        self.followers: dict[int, Follower] = {}
        self.has_assignment = False
        self._stopping_followers: set[asyncio.Task[None]] = set()
        self._ingress = ingress
        self._web = WebServer(settings, self)
        self._claim: IO[bytes] | None = None
        self._shared: Shared | None = None
        self._reader: SettingsReader | None = None
        self._watch: TopicWatch | None = None
        self._tenant_topics: TenantTopics | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Check the cluster, then begin to follow settings and egress topics.

        Raises `StartError` with one sentence for the user.
        """
        settings = self.settings
        await self._web.start()
        try:
            self._claim = claim(settings.data_dir / settings.app_id)
        except StoreError as error:
            raise StartError(str(error)) from error
        cluster = await inspect_when_there(settings)
        loop = asyncio.get_running_loop()
        directory = EgressDirectory(
            settings,
            on_change=partial(_call_on, loop, self._wake_all),
            message_bytes_min=BATCH_BYTES_MAX,
        )
        directory.start()
        self.cluster = cluster
        threads = Threads(settings, cluster.partitions)
        connection = Connection(settings)
        self._reader = SettingsReader(settings, self.view, self._wake_all, self._ingress.fail)
        self._watch = TopicWatch(settings, cluster, self._ingress.fail)
        self._shared = Shared(
            settings=settings,
            cluster=cluster,
            ingress=self._ingress,
            view=self.view,
            directory=directory,
            metrics=self.metrics,
            pulse=Pulse(time.monotonic, _wall_clock_ms, self._reader.doubt),
            threads=threads,
            stores=RocksStores(settings),
            make_producer=partial(_make_producer, settings, threads.producing, Patience()),
            open_changelog=partial(ChangelogConsumer, settings),
            look_at_topics=self._watch.look,
            missing_rights=partial(
                missing_rights, connection, rights_of(Role.SCHEDULER, settings.names)
            ),
            clock_ms=_wall_clock_ms,
            monotonic=time.monotonic,
        )
        self.view.topic_id = cluster.settings_topic_id
        self._reader.start()
        self._watch.start()
        if settings.tenant_ingress:
            self._tenant_topics = TenantTopics(
                settings,
                cluster.partitions,
                self.metrics,
                _wall_clock_ms,
                partial(_missing_for_tenant_topics, connection, settings.names),
            )
            self._tenant_topics.start()
        self._tasks = [
            asyncio.create_task(self._set_gauges(), name="gauges"),
            asyncio.create_task(self._shared.pulse.run(), name="pulse"),
        ]

    async def on_assigned(
        self, partitions: frozenset[int], standbys: frozenset[int], generation: int
    ) -> None:
        """Start a runner for each partition; the former ones were stopped by `on_revoked`.

        A standby of a partition that is ours now gives its store to the runner. One that stays a
        standby goes on as it is; one that is not wanted any more is closed, with its folder kept.
        """
        shared = self._shared
        if shared is None:
            raise RuntimeError("assigned before the start")
        self.has_assignment = True
        for number in sorted(partitions):
            runner = Runner(shared, number, generation, self._taken_from_standbys(number))
            self.runners[number] = runner
            runner.start()
        self._follow_only(standbys - partitions)
        log.info(
            "partitions assigned",
            partitions=sorted(partitions),
            standbys=sorted(self.followers),
            generation=generation,
        )

    def _taken_from_standbys(self, number: int) -> Follower | None:
        self.metrics.forget_standby(number)
        return self.followers.pop(number, None)

    def _follow_only(self, standbys: frozenset[int]) -> None:
        for number in sorted(self.followers.keys() - standbys):
            follower = self.followers.pop(number)
            stopping = asyncio.create_task(follower.stop(), name=f"stop standby {number}")
            self._stopping_followers.add(stopping)
            stopping.add_done_callback(self._stopping_followers.discard)
            self.metrics.forget_standby(number)
        for number in sorted(standbys - self.followers.keys()):
            assert self._shared is not None
            follower = self.followers[number] = Follower(self._shared, number)
            follower.start()

    async def on_revoked(self, partitions: frozenset[int]) -> None:
        """Stop all runners at once; each finishes its cycle or abandons it."""
        self.has_assignment = False
        stopping = [self.runners.pop(number) for number in partitions if number in self.runners]
        await asyncio.gather(*(runner.stop(STOP_SECONDS) for runner in stopping))
        for number in partitions:
            self.metrics.forget(number)

    def room(self, partition: int) -> bool:
        """Whether the partition's runner wants another chunk."""
        runner = self.runners.get(partition)
        return runner is not None and runner.has_room()

    async def deliver(self, partition: int, chunk: IngressChunk) -> None:
        """Hand a chunk to the partition's runner."""
        runner = self.runners.get(partition)
        if runner is not None:
            runner.take(chunk)

    async def stop(self) -> None:
        """End everything that `start` began."""
        self._follow_only(frozenset())
        if self._stopping_followers:
            await asyncio.wait(set(self._stopping_followers))
        for task in self._tasks:
            task.cancel()
        if self._reader is not None:
            self._reader.stop()
        if self._watch is not None:
            self._watch.stop()
        if self._tenant_topics is not None:
            await asyncio.to_thread(self._tenant_topics.stop)
        await self._web.stop()
        if self._shared is not None:
            self._shared.threads.close()
            await asyncio.to_thread(self._shared.directory.stop)
        if self._claim is not None:
            self._claim.close()

    # --- for the web -----------------------------------------------------------------------

    def faults(self) -> Mapping[str, str]:
        """What keeps this process from being ready, by what it concerns; empty when it is."""
        found: dict[str, str] = {}
        if not self.has_assignment:
            found["group"] = "waiting for partitions"
        if not self.view.complete:
            found["settings"] = "reading the settings topic"
        if self._ingress.is_forbidden():
            topic = Resource(Kind.TOPIC, self.settings.names.jobs)
            found["ingress"] = lacks([Operation.READ], topic)
        for number, runner in sorted(self.runners.items()):
            if runner.phase is not Phase.READY:
                left = runner.state.records_left
                more = f", {left} records left" if left else ""
                again = f", after {runner.failure}" if runner.failure else ""
                found[f"partition {number}"] = f"{runner.phase.value}{more}{again}"
            elif runner.failed_cycles >= FAILED_CYCLES_MIN:
                found[f"partition {number}"] = (
                    f"its last {runner.failed_cycles} transactions failed: {runner.failure}"
                )
            elif runner.clock_is_back_ms:
                found[f"partition {number}"] = (
                    f"the clock is {runner.clock_is_back_ms} ms behind the last cycle"
                )
        return found

    def _wake_all(self) -> None:
        for runner in self.runners.values():
            runner.wake()

    async def _set_gauges(self) -> None:
        while True:
            ready = 0
            for number, runner in self.runners.items():
                ready += runner.phase is Phase.READY
                self.metrics.ingress_buffered_bytes.labels(str(number)).set(runner.buffered_bytes())
                self.metrics.ingress_unstable_records.labels(str(number)).set(
                    self._ingress.unstable_records(number)
                )
                if runner.partition is not None:
                    tenants = runner.partition.tenants.values()
                    self.metrics.pending.labels(str(number)).set(sum(t.pending for t in tenants))
                    self.metrics.ready.labels(str(number)).set(sum(t.ready for t in tenants))
            self.metrics.partitions_ready.set(ready)
            self.metrics.settings_invalid.set(self.view.invalid_records)
            self.metrics.block_cache_bytes.set(process_cache().get_usage())
            await asyncio.sleep(GAUGES_SECONDS)


def _make_producer(
    settings: Settings, executor: Executor, patience: Patience, number: int
) -> PartitionProducer:
    client = connect(settings, number, patience)
    return PartitionProducer(
        client,
        number,
        settings.names.changelog,
        executor,
        message_timeout_ms=client.message_timeout_ms,
        on_late=partial(patience.note_late, number),
    )


def _missing_for_tenant_topics(connection: Connection, names: TopicNames) -> list[str]:
    """A sentence for each right that handing on needs and lacks; blocks, raises `KafkaAway`."""
    return [
        *missing_rights(connection, rights_of(Role.SCHEDULER, names)),
        *unseen_prefixes(connection, scheduler_at_tenant_topics(names)),
    ]


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


def _call_on(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(function)
