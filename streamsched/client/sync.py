"""The blocking client."""

import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self

from streamsched.client.batch import Batch, prepare
from streamsched.client.connection import Connection
from streamsched.client.delivery import QUEUE_FULL_WAIT_SECONDS, Deliveries
from streamsched.client.dispatched import Dispatched, resubmission
from streamsched.client.jobs import (
    Headers,
    Job,
    Moment,
    Submitted,
    cancel_record,
    job_record,
    new_job_id,
    now_ms,
)
from streamsched.client.reader import DispatchedReader
from streamsched.client.reading import Reading
from streamsched.client.tenants import (
    TenantSettings,
    pause_record,
    read_settings,
    settings_record,
    tenants_of,
)


class Client:
    """Submits and cancels jobs, sets tenants' rates, reads what was dispatched.

    With `tenant_ingress` jobs go to a topic of their tenant's own (`streamsched.jobs.TENANT`), as
    the schedulers' setting of that name wants it.
    `config` holds more client options in librdkafka's spelling (`security.protocol`, …). Safe
    to share between threads; one per process is enough. Connections are made when first needed.
    Use it in a `with` block, or call `close`.

        with Client("localhost:9092") as client:
            client.submit("acme", "sms-1", {"to": "+49…"}, delay=timedelta(minutes=5))
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is under way and let go of the cluster; harmless when repeated."""
        self._deliveries.close()

    # --- jobs ------------------------------------------------------------------------------

    def submit(
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
        """Submit one job and wait until the broker has it; see `Job` for the arguments.

        Without `id` the job gets a fresh one. A pending job of the same tenant and id is
        replaced. Raises `ValueError` for a job that would be rejected, `DeliveryError`.
        """
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
        return self._deliveries.deliver(job_record(job, self._names, now_ms()))

    def submit_many(self, jobs: Iterable[Job]) -> int:
        """Submit all `jobs` in bounded memory; returns their number once the broker has all.

        Raises `DeliveryErrors`, which lists each job that is invalid or was not delivered; the
        others are submitted.
        """
        batch = Batch()
        try:
            for job in jobs:
                prepared = prepare(job, batch, self._names)
                if prepared is not None:
                    while not self._deliveries.try_send(*prepared):
                        time.sleep(QUEUE_FULL_WAIT_SECONDS)
                if batch.is_full:
                    batch.close_chunk().result()
                    batch.open_chunk()
                if batch.is_hopeless:
                    break
        finally:
            batch.close_chunk().result()
        return batch.outcome()

    def cancel(self, tenant: str, id: str) -> Submitted:  # noqa: A002
        """Cancel a pending job and wait until the broker has the cancel.

        Whether the job was still pending is told by the event `cancelled` or
        `cancel_not_found`. Raises `ValueError`, `DeliveryError`.
        """
        return self._deliveries.deliver(cancel_record(tenant, id, self._names))

    def resubmit(
        self,
        record: Dispatched,
        *,
        due_at: Moment | None = None,
        delay: timedelta | None = None,
        expires_at: Moment | None = None,
        id: str | None = None,  # noqa: A002
    ) -> Submitted:
        """Schedule a dispatched job again, as a new job under its own id or another.

        Payload, key and the producer's headers are kept, the scheduler's headers are dropped.
        Raises `ValueError`, `DeliveryError`.
        """
        job = resubmission(record, due_at=due_at, delay=delay, expires_at=expires_at, id=id)
        return self._deliveries.deliver(job_record(job, self._names, now_ms()))

    # --- tenants ---------------------------------------------------------------------------

    def set_tenant(
        self,
        tenant: str,
        rate: str | None = None,
        burst: int | None = None,
        paused: bool | None = None,  # noqa: FBT001  (the record's own field)
        egress_topic: str | None = None,
        egress_partitions: int | None = None,
        events: str | None = None,
    ) -> int:
        """Publish a tenant's settings, or those of `*`; returns the record's offset.

        The record replaces the previous one whole: what is `None` is absent and takes the value
        of `*`, then the built-in one. `rate` is such as `40/s`, `1/m`, `1/333ms`, `unlimited`.
        Raises `ValueError`, `DeliveryError`.
        """
        settings = TenantSettings(rate, burst, paused, egress_topic, egress_partitions, events)
        return self._deliveries.deliver(settings_record(tenant, settings, self._names)).offset

    def unset_tenant(self, tenant: str) -> int:
        """Remove a tenant's own record, so that `*` applies; returns the tombstone's offset."""
        return self._deliveries.deliver(settings_record(tenant, None, self._names)).offset

    def pause(self, tenant: str) -> int:
        """Stop dispatching a tenant's jobs; they stay pending. Returns the record's offset.

        Reads the tenant's newest record, changes it and writes it back: of two who do so at
        once, the last writer wins. Raises `ValueError` where the newest record is invalid,
        `ReadError`, `DeliveryError`.
        """
        return self._set_paused(tenant, paused=True)

    def resume(self, tenant: str) -> int:
        """Dispatch a paused tenant's jobs again; as `pause` in all else (last writer wins)."""
        return self._set_paused(tenant, paused=False)

    def tenants(self) -> dict[str, TenantSettings]:
        """Every tenant's own settings record, `*` included, by name. Raises `ReadError`."""
        return tenants_of(read_settings(self._connection))

    def _set_paused(self, tenant: str, *, paused: bool) -> int:
        view = read_settings(self._connection)
        record = pause_record(tenant, view, paused=paused, names=self._names)
        return self._deliveries.deliver(record).offset

    # --- workers ---------------------------------------------------------------------------

    def dispatched(
        self,
        tenant: str,
        *,
        group: str | None = None,
        from_beginning: bool | None = None,
        timeout: float | None = None,
        topic: str | None = None,
    ) -> DispatchedReader:
        """Iterate over a tenant's dispatched jobs at read_committed, as they come.

        With `group`, the group's members share the egress partitions and go on where they were;
        each job is handled at least once. Without, all partitions that there are now are read,
        and nothing is remembered. `from_beginning` is where a reader without a position begins:
        by default from now on without a group, from the beginning with one. `timeout`: seconds
        without a job after which the iteration ends (default: never). `topic`: the egress
        topic, where the tenant's present settings shall not be asked.
        Raises `ValueError`, `ReadError`.
        """
        reading = Reading(
            self._connection,
            tenant,
            group=group,
            from_beginning=from_beginning,
            timeout=timeout,
            topic=topic,
        )
        return DispatchedReader(reading)
