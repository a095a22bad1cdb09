"""What tenants send while everything around them fails: jobs with known ids, at a steady pace."""

import itertools
import json
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, Message, Producer

from streamsched.core import headers as h
from streamsched.core.names import DEFAULT_TENANT, TopicNames

TICK_SECONDS: Final = 0.1
LEAD_MS: Final = (200, 4_000)
LEAD_OF_CHANGED_MS: Final = 3_500
SECOND_THOUGHTS_SECONDS: Final = 0.5
EXPIRES_AFTER_MS: Final = 1_200
FLUSH_SECONDS_MAX: Final = 120.0
PAYLOAD: Final = b"a message to somebody, about a hundred bytes long, and the same for every job"


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant: its settings, and how many jobs it sends a second."""

    name: str
    jobs_per_second: float
    rate: str = ""
    burst: int = 1
    together: int = 1
    """How many jobs have one due time."""
    cancels: bool = False
    replaces: bool = False
    expires: bool = False
    strays: bool = False
    """Sent to any partition, so that the scheduler has to move them."""

    @property
    def tells_all(self) -> bool:
        """Whether its events say when each job was accepted and dispatched.

        Not where jobs are moved: the judge's look at the order needs the offset at the owner.
        """
        return not self.strays


TENANTS: Final[Sequence[Tenant]] = (
    *(Tenant(f"plain-{number}", 10) for number in range(6)),
    *(Tenant(f"doomed-{number}", 12) for number in range(3)),
    Tenant("quick", 15, "40/s", 10),
    Tenant("steady", 5, "10/s"),
    Tenant("slow", 0.3, "1/s"),
    Tenant("odd", 1.5, "1/333ms"),
    Tenant("bursts", 8, "20/s", 20, together=16),
    Tenant("cancels", 10, cancels=True),
    Tenant("replaces", 10, replaces=True),
    Tenant("expires", 6, "5/s", expires=True),
    Tenant("strays", 6, strays=True),
)
DOOMED: Final = tuple(tenant.name for tenant in TENANTS if tenant.name.startswith("doomed"))


class Load:
    """Sends from a thread of its own until it is stopped."""

    def __init__(self, servers: str, names: TopicNames, partitions: int, seed: str) -> None:
        """Does not send before `start`."""
        self.acknowledged: set[tuple[str, str]] = set()
        """Tenant and id of each job that Kafka has taken."""
        self.sent = 0
        self._names = names
        self._partitions = partitions
        self._random = random.Random(seed)
        self._numbers = itertools.count(1)
        self._owed = dict.fromkeys(TENANTS, 0.0)
        self._second_thoughts: deque[tuple[float, Tenant, str]] = deque()
        self._stopping = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="chaos-load")
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "partitioner": "murmur2_random",
                # A broker answers a connection one request at a time. Without it librdkafka sends
                # a million ahead, each small, and on a slow cluster falls ever further behind.
                "enable.idempotence": True,
                "message.timeout.ms": 300_000,
                "reconnect.backoff.max.ms": 500,
                "linger.ms": 5,
                "log_level": 0,
            }
        )

    def publish_settings(self) -> None:
        """The tenants' settings, before anything else."""
        self._publish(DEFAULT_TENANT, {"events": "all"})
        for tenant in TENANTS:
            fields: dict[str, Any] = {"events": "all" if tenant.tells_all else "outcomes"}
            if tenant.rate:
                fields |= {"rate": tenant.rate, "burst": tenant.burst}
            self._publish(tenant.name, fields)
        self._flush()

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send nothing new, and wait until Kafka has taken what was sent."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._fault is not None:
            raise self._fault
        self._flush()

    def abandon(self) -> None:
        """Send nothing new, and forget what is under way."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._producer.purge()

    def _flush(self) -> None:
        left = self._producer.flush(FLUSH_SECONDS_MAX)
        if left:
            raise AssertionError(f"Kafka has not taken {left} records")

    def _publish(self, tenant: str, fields: dict[str, Any]) -> None:
        self._producer.produce(self._names.tenant_settings, json.dumps(fields), tenant)

    def _run(self) -> None:
        try:
            last = time.monotonic()
            while not self._stopping.wait(max(0.0, last + TICK_SECONDS - time.monotonic())):
                now = time.monotonic()
                for tenant in TENANTS:
                    self._send_owed(tenant, now, now - last)
                last = now
                self._think_again(now)
                self._producer.poll(0)
        except Exception as error:  # noqa: BLE001 - told by `stop`
            self._fault = error

    def _send_owed(self, tenant: Tenant, now: float, seconds: float) -> None:
        self._owed[tenant] += tenant.jobs_per_second * seconds
        while self._owed[tenant] >= tenant.together:
            self._owed[tenant] -= tenant.together
            lead_ms = self._random.randint(*LEAD_MS)
            for _ in range(tenant.together):
                job_id = f"job-{next(self._numbers)}"
                if (tenant.cancels or tenant.replaces) and self._random.random() < 0.3:
                    lead_ms = LEAD_OF_CHANGED_MS
                    self._second_thoughts.append((now + SECOND_THOUGHTS_SECONDS, tenant, job_id))
                self._send_job(tenant, job_id, lead_ms)

    def _think_again(self, now: float) -> None:
        while self._second_thoughts and self._second_thoughts[0][0] <= now:
            _, tenant, job_id = self._second_thoughts.popleft()
            if tenant.replaces:
                self._send_job(tenant, job_id, 1_000)
                continue
            # Of one that never was, too: its answer must come as well.
            for wanted in (job_id, f"{job_id}-never-was"):
                self._send(tenant, None, [(h.ID, wanted.encode())])

    def _send_job(self, tenant: Tenant, job_id: str, lead_ms: int) -> None:
        due_ms = time.time_ns() // 1_000_000 + lead_ms
        headers: list[tuple[str, str | bytes | None]] = [
            (h.ID, job_id.encode()),
            (h.DUE_AT, b"%d" % due_ms),
        ]
        if tenant.expires:
            headers.append((h.EXPIRES_AT, b"%d" % (due_ms + EXPIRES_AFTER_MS)))

        def note(error: KafkaError | None, _: Message) -> None:
            if error is None:
                self.acknowledged.add((tenant.name, job_id))

        self._send(tenant, PAYLOAD, headers, note)

    def _send(
        self,
        tenant: Tenant,
        value: bytes | None,
        headers: list[tuple[str, str | bytes | None]],
        note: Any = None,
    ) -> None:
        options: dict[str, Any] = {"on_delivery": note} if note else {}
        if tenant.strays:
            options["partition"] = self._random.randrange(self._partitions)
        self.sent += 1
        self._producer.produce(
            self._names.jobs, value, tenant.name.encode(), headers=headers, **options
        )
