"""The wiring of the scheduler as a Faust app, on one page.

group membership, assignor, life cycle    Faust
reading the ingress topic                 `engine.transport`, one message a chunk
table and recovery                        `engine.table`, `engine.recovery`: names only
everything done with a partition          the `PartitionOwner` that is handed in
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import faust
from faust.app.base import BootStrategy
from faust.streams import Stream
from faust.types import AppT, EventT, Message, StreamT

from streamsched.engine import assignor
from streamsched.engine.ingress import FetchedChunk, PartitionIngress
from streamsched.engine.kafka_options import aiokafka_options
from streamsched.engine.partitions import OwnerFactory
from streamsched.engine.reader import (
    HEARTBEAT_INTERVAL_MS,
    REBALANCE_TIMEOUT_MS,
    REQUEST_TIMEOUT_MS,
)
from streamsched.engine.recovery import InstantTableManager
from streamsched.engine.table import TABLE_NAME, JobsTable
from streamsched.engine.transport import ChunkTransport
from streamsched.engine.worker import SchedulerWorker
from streamsched.settings import Settings


class ChunkSchema(faust.Schema[None, FetchedChunk]):
    """Hands a chunk through as it is."""

    def compile(self, app: AppT, **_callbacks: object) -> Callable[..., Awaitable[EventT[Any]]]:
        """The function that makes an event of a message."""
        create_event = app.create_event

        async def decode(message: Message, **_options: object) -> EventT[Any]:
            return create_event(None, cast("Any", message.value), None, message)

        return decode


class IngressBoot(BootStrategy):
    """No producer and no web server of Faust's: both are ours."""

    enable_kafka_producer = False
    enable_web = False


class SchedulerApp(faust.App):
    """Faust's app with our transport, and the owner's life tied to its own."""

    BootStrategy = IngressBoot
    ingress: PartitionIngress
    settings: Settings
    connection: Mapping[str, Any]

    def _new_transport(self) -> ChunkTransport:
        return ChunkTransport(
            self.conf.broker_consumer,
            self,
            ingress=self.ingress,
            settings=self.settings,
            connection=self.connection,
        )

    def _create_directories(self) -> None:
        """Nothing: Faust has nothing to store."""

    async def on_start(self) -> None:
        """The owner first: it must be ready when the first partitions come."""
        await self.ingress.start()
        await super().on_start()

    async def on_stop(self) -> None:
        """Leave the group at once, then take the rest down."""
        await self.ingress.leave()
        await super().on_stop()
        await self.ingress.stop()


def create_app(settings: Settings, owner_factory: OwnerFactory) -> SchedulerApp:
    """The app of one scheduler process; topics must exist before it is started.

    Raises `SettingsError` for a Kafka option that cannot be honoured.
    """
    assignor.install()
    app = SchedulerApp(
        settings.app_id,
        broker=[f"aiokafka://{s.strip()}" for s in settings.bootstrap_servers.split(",")],
        processing_guarantee="at_least_once",  # Faust's other one leaves egress out.
        autodiscover=False,
        datadir=settings.data_dir,
        store="memory://",
        table_standby_replicas=settings.standby_replicas,
        topic_allow_declare=False,
        topic_disable_leader=True,
        stream_wait_empty=False,
        web_enabled=False,
        broker_session_timeout=settings.session_timeout_ms / 1000,
        broker_rebalance_timeout=REBALANCE_TIMEOUT_MS / 1000,
        broker_heartbeat_interval=HEARTBEAT_INTERVAL_MS / 1000,
        broker_request_timeout=REQUEST_TIMEOUT_MS / 1000,
        TableManager=InstantTableManager,
        Worker=SchedulerWorker,
    )
    app.settings = settings
    app.connection = aiokafka_options(settings)
    app.ingress = PartitionIngress(owner_factory, crash=lambda error: _crash(app, error))
    app.tables.add(JobsTable(app, name=TABLE_NAME, beacon=app.tables.beacon))

    jobs = app.topic(settings.names.jobs, schema=ChunkSchema(), acks=False)

    @app.agent(jobs, name="ingress", isolated_partitions=True)
    async def take(chunks: StreamT[Any]) -> None:
        async for chunk in cast("Stream[FetchedChunk]", chunks).noack():
            app.ingress.accept(chunk)

    return app


def _crash(app: SchedulerApp, error: BaseException) -> None:
    app.add_future(app.crash(error))
