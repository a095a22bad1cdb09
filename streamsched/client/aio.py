"""The client for asyncio: the twin of `streamsched.client.sync`, with the same records."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from streamsched.client.aio_reader import AsyncDispatchedReader
from streamsched.client.batch import Batch, prepare
from streamsched.client.connection import Connection
from streamsched.client.delivery import QUEUE_FULL_WAIT_SECONDS, Deliveries
from streamsched.client.dispatched import Dispatched, resubmission
from streamsched.client.jobs import (
    Headers,
    Job,
    Moment,
    Record,
    Submitted,
    cancel_record,
    job_record,
    new_job_id,
    now_ms,
)
from streamsched.client.reading import Reading
from streamsched.client.tenants import (
    TenantSettings,
    pause_record,
    read_settings,
    settings_record,
    tenants_of,
)

JOBS_PER_LOOP_STEP: Final = 100
"""Jobs that `submit_many` sends before it lets the event loop do something else."""


class AsyncClient:
    """As `Client`, for asyncio. Use it in an `async with` block, or call `close`.

    confluent-kafka's AIOProducer cannot carry headers, which jobs live in, so records go
    through the plain producer and its delivery reports become futures of the event loop.
    """

    def __init__(
        self,
        bootstrap_servers: str = "localhost:9092",
        app_id: str = "streamsched",
        config: Mapping[str, object] | None = None,
        *,
        tenant_ingress: bool = False,
    ) -> None:
        self._connection = Connection(
            bootstrap_servers, app_id, config, tenant_ingress=tenant_ingress
        )
        self._names = self._connection.names
        self._deliveries = Deliveries(self._connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for what is under way and let go of the cluster; harmless when repeated."""
        await asyncio.to_thread(self._deliveries.close)

    # --- jobs ------------------------------------------------------------------------------

    async def submit(
        self,
        tenant: str,
        id: str | None = None,  # noqa: A002  (the contract's word)
        payload: object = None,
        *,
        due_at: Moment | None = None,
        delay: timedelta | None = None,
        expires_at: Moment | None = None,
        key: str | None = None,
        headers: Headers | None = None,
    ) -> Submitted:
        """As `Client.submit`. Cancelling the task does not call the job back."""
        job = Job(
            tenant=tenant,
            id=new_job_id() if id is None else id,
            payload=payload,
            due_at=due_at,
            delay=delay,
            expires_at=expires_at,
            key=key,
            headers=headers,
        )
        return await self._deliver(job_record(job, self._names, now_ms()))

    async def submit_many(self, jobs: Iterable[Job] | AsyncIterable[Job]) -> int:
        """As `Client.submit_many`; `jobs` may be an asynchronous iterable too."""
        batch = Batch()
        try:
            async for job in _asynchronous(jobs):
                prepared = prepare(job, batch, self._names)
                if prepared is not None:
                    while not self._deliveries.try_send(*prepared):  # noqa: ASYNC110
                        await asyncio.sleep(QUEUE_FULL_WAIT_SECONDS)
                if batch.is_full:
                    await asyncio.wrap_future(batch.close_chunk())
                    batch.open_chunk()
                elif batch.taken % JOBS_PER_LOOP_STEP == 0:
                    await asyncio.sleep(0)
                if batch.is_hopeless:
                    break
        finally:
            await asyncio.wrap_future(batch.close_chunk())
        return batch.outcome()

    async def cancel(self, tenant: str, id: str) -> Submitted:  # noqa: A002
        """As `Client.cancel`."""
        return await self._deliver(cancel_record(tenant, id, self._names))

    async def resubmit(
        self,
        record: Dispatched,
        *,
        due_at: Moment | None = None,
        delay: timedelta | None = None,
        expires_at: Moment | None = None,
        id: str | None = None,  # noqa: A002
    ) -> Submitted:
        """As `Client.resubmit`."""
        job = resubmission(record, due_at=due_at, delay=delay, expires_at=expires_at, id=id)
        return await self._deliver(job_record(job, self._names, now_ms()))

    # --- tenants ---------------------------------------------------------------------------

    async def set_tenant(
        self,
        tenant: str,
        rate: str | None = None,
        burst: int | None = None,
        paused: bool | None = None,  # noqa: FBT001  (the record's own field)
        egress_topic: str | None = None,
        egress_partitions: int | None = None,
        events: str | None = None,
    ) -> int:
        """As `Client.set_tenant`."""
        settings = TenantSettings(rate, burst, paused, egress_topic, egress_partitions, events)
        return (await self._deliver(settings_record(tenant, settings, self._names))).offset

    async def unset_tenant(self, tenant: str) -> int:
        """As `Client.unset_tenant`."""
        return (await self._deliver(settings_record(tenant, None, self._names))).offset

    async def pause(self, tenant: str) -> int:
        """As `Client.pause`: of two who do so at once, the last writer wins."""
        return await self._set_paused(tenant, paused=True)

    async def resume(self, tenant: str) -> int:
        """As `Client.resume`: of two who do so at once, the last writer wins."""
        return await self._set_paused(tenant, paused=False)

    async def tenants(self) -> dict[str, TenantSettings]:
        """As `Client.tenants`."""
        return tenants_of(await asyncio.to_thread(read_settings, self._connection))

    # --- workers ---------------------------------------------------------------------------

    def dispatched(
        self,
        tenant: str,
        *,
        group: str | None = None,
        from_beginning: bool | None = None,
        timeout: float | None = None,
        topic: str | None = None,
    ) -> AsyncDispatchedReader:
        """As `Client.dispatched`, for `async for`.

        Where it begins is settled on entering `async with`, else at the first job.
        """
        reading = Reading(
            self._connection,
            tenant,
            group=group,
            from_beginning=from_beginning,
            timeout=timeout,
            topic=topic,
        )
        return AsyncDispatchedReader(reading)

    # --- inside ----------------------------------------------------------------------------

    async def _set_paused(self, tenant: str, *, paused: bool) -> int:
        view = await asyncio.to_thread(read_settings, self._connection)
        record = pause_record(tenant, view, paused=paused, names=self._names)
        return (await self._deliver(record)).offset

    async def _deliver(self, record: Record) -> Submitted:
        # librdkafka does not tell when its queue has room again.
        while (future := self._deliveries.future_of(record)) is None:  # noqa: ASYNC110
            await asyncio.sleep(QUEUE_FULL_WAIT_SECONDS)
        return await asyncio.wrap_future(future)


async def _asynchronous(jobs: Iterable[Job] | AsyncIterable[Job]) -> AsyncIterator[Job]:
    if isinstance(jobs, AsyncIterable):
        async for job in jobs:
            yield job
    else:
        for job in jobs:
            yield job
