"""Probes, metrics and read-only JSON of one scheduler process.

`/livez` never asks Kafka; `/readyz` is 200 once every assigned partition is recovered and ticking.
Tenants and jobs are those of the partitions that this process owns.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from streamsched.core.placement import partition_for
from streamsched.core.rejection import Reason
from streamsched.core.tenant_settings import TENANT_PATTERN
from streamsched.engine.reader import StartError
from streamsched.settings import Settings

if TYPE_CHECKING:
    from streamsched.engine.runners import PartitionRunners


class WebServer:
    """The pages of `owner`, on the configured address."""

    def __init__(self, settings: Settings, owner: "PartitionRunners") -> None:
        """Does not listen before `start`."""
        self._settings = settings
        self._owner = owner
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen. Raises `StartError` if the port is in use."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/tenants", self._tenants),
                web.get("/jobs/{tenant}/{id}", self._job),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        host, port = self._settings.web_host, self._settings.web_port
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            raise StartError(
                f"the web port {host}:{port} cannot be listened on ({error.strerror}); "
                "choose another with STREAMSCHED_WEB_PORT"
            ) from error

    @property
    def port(self) -> int:
        """The port it listens on; the chosen one where 0 was configured."""
        if self._runner is None or not self._runner.addresses:
            return 0
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        faults = self._owner.faults()
        text = "ok\n" if not faults else "not ready\n"
        if "verbose" in request.query or faults:
            text += "".join(f"{what}: {fault}\n" for what, fault in faults.items())
        if "verbose" in request.query:
            for number, runner in sorted(self._owner.runners.items()):
                text += f"partition {number}: {runner.phase.value}\n"
            for number, follower in sorted(self._owner.followers.items()):
                text += f"standby {number}: {follower.description()}\n"
        return web.Response(status=503 if faults else 200, text=text)

    async def _metrics(self, _request: web.Request) -> web.Response:
        body = generate_latest(self._owner.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _tenants(self, _request: web.Request) -> web.Response:
        rows: list[Mapping[str, Any]] = []
        for number, runner in sorted(self._owner.runners.items()):
            if runner.partition is None:
                continue
            for tenant in sorted(runner.partition.tenants.values(), key=lambda t: t.name):
                rate = tenant.effective.rate
                rows.append(
                    {
                        "tenant": tenant.name,
                        "partition": number,
                        "status": tenant.status(),
                        "reason": tenant.blocked_detail or tenant.blocked,
                        "rate": "unlimited" if rate is None else str(rate),
                        "burst": tenant.effective.burst,
                        "paused": tenant.effective.paused,
                        "egress_topic": tenant.effective.egress_topic,
                        "pending": tenant.pending,
                        "due": tenant.ready,
                    }
                )
        return _json({"tenants": rows})

    async def _job(self, request: web.Request) -> web.Response:
        name, job_id = request.match_info["tenant"], request.match_info["id"]
        owner = self._owner
        if not TENANT_PATTERN.fullmatch(name.encode()):
            return _json({"error": f"{name!r} is no tenant", "code": Reason.ILLEGAL_TENANT}, 400)
        if owner.cluster is None:
            return _json({"error": "not started yet"}, 503)
        number = partition_for(name.encode(), owner.cluster.partitions)
        runner = owner.runners.get(number)
        if runner is None or runner.partition is None:
            return _json(
                {
                    "error": f"tenant {name!r} is on partition {number}, which this process "
                    "does not own or has not recovered yet"
                },
                404 if runner is None else 503,
            )
        job = runner.partition.job(name, job_id)
        if job is None:
            return _json({"error": f"no pending job {job_id!r} of tenant {name!r}"}, 404)
        tenant = runner.partition.tenants[name]
        is_due = job.due_ms <= runner.partition.last_now_ms
        return _json(
            {
                "tenant": name,
                "id": job_id,
                "status": "pending" if not is_due else tenant.status(),
                "due_at": job.due_ms,
                "expires_at": job.expires_ms or None,
                "accepted_at": job.accepted_ms,
                "source": f"{job.source_partition}-{job.source_offset}",
                "partition": number,
                "key": None if job.key is None else job.key.decode(errors="replace"),
                "headers": [
                    [key, None if value is None else value.decode(errors="replace")]
                    for key, value in job.headers
                ],
                "payload_bytes": len(job.payload),
            }
        )


def _json(body: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=orjson.dumps(body) + b"\n", content_type="application/json"
    )
