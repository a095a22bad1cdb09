"""The demo's traffic: what the tenants of the scenario submit, cancel and replace."""

import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from confluent_kafka import Producer

from streamsched.client import Client, Job
from streamsched.core.names import TopicNames
from streamsched.demo.bad_records import BadRecord, bad_records
from streamsched.demo.scenario import LEAD_SECONDS, Habit, TenantPlan

TICK_SECONDS: Final = 0.1
BAD_EVERY_TICKS: Final = 4
SECOND_THOUGHTS_SECONDS: Final = 0.7
"""How long after a job its cancel or its replacement is sent."""
LEAD_OF_CHANGED_SECONDS: Final = 3.0
FLUSH_SECONDS_MAX: Final = 10.0
STOP_SECONDS_MAX: Final = 15.0


class TrafficError(Exception):
    """Traffic ended early; the text says why."""


class Traffic:
    """Submits the tenants' jobs through the SDK, from a thread of its own."""

    def __init__(
        self, bootstrap_servers: str, names: TopicNames, tenants: Sequence[TenantPlan], seed: int
    ) -> None:
        """Does not send before `start`."""
        self._servers = bootstrap_servers
        self._names = names
        self._tenants = tenants
        self._random = random.Random(seed)  # noqa: S311 - due times are no secret
        self._ids: Iterator[int] = itertools.count(1)
        self._owed = dict.fromkeys((tenant.name for tenant in tenants), 0.0)
        self._second_thoughts: deque[tuple[float, TenantPlan, str]] = deque()
        self._stopping = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="traffic")

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Stop sending and wait until the broker has everything; harmless when repeated."""
        self._stopping.set()
        if self._thread.ident is not None:
            # Should Kafka be gone, what it was asked for would be waited for much longer.
            self._thread.join(STOP_SECONDS_MAX)

    def check(self) -> None:
        """Raise `TrafficError` where sending has failed."""
        if self._fault is not None:
            raise TrafficError(f"the demo's traffic ended early: {self._fault}")

    def _run(self) -> None:
        try:
            # Bad records go past the SDK, which would not send them.
            raw = Producer({"bootstrap.servers": self._servers, "log_level": 0})
            with Client(self._servers, self._names.app_id, {"log_level": 0}) as client:
                client.submit_many(self._backlog())
                self._tick_on(client, raw)
            if raw.flush(FLUSH_SECONDS_MAX):
                raise TrafficError("bad records were not taken by Kafka")  # noqa: TRY301
        except Exception as error:  # noqa: BLE001 - whoever waits for the thread is told
            self._fault = error

    def _tick_on(self, client: Client, raw: Producer) -> None:
        bad = [bad_records(tenant.name) for tenant in self._tenants if tenant.habit is Habit.BAD]
        last = time.monotonic()
        for tick in itertools.count():
            if self._stopping.wait(max(0.0, last + TICK_SECONDS - time.monotonic())):
                return
            now = time.monotonic()
            client.submit_many(self._jobs(now - last, now))
            last = now
            self._think_again(client, now)
            if tick % BAD_EVERY_TICKS == 0:
                for one in bad:
                    self._send_bad(raw, next(one))
            raw.poll(0)

    def _backlog(self) -> Iterator[Job]:
        """The jobs that are due at the start."""
        now_ms = _now_ms()
        for tenant in self._tenants:
            for _ in range(tenant.backlog):
                yield self._job(tenant, self._next_id(), now_ms)

    def _jobs(self, seconds: float, now: float) -> Iterator[Job]:
        """What all tenants submit in so many seconds."""
        now_ms = _now_ms()
        for tenant in self._tenants:
            owed = self._owed[tenant.name] + tenant.jobs_per_second * seconds
            while owed >= tenant.together:
                owed -= tenant.together
                lead_seconds = self._random.uniform(*LEAD_SECONDS)
                for _ in range(tenant.together):
                    number = self._next_id()
                    if (
                        tenant.habit in (Habit.CANCELS, Habit.REPLACES)
                        and self._random.random() < 0.2
                    ):
                        lead_seconds = LEAD_OF_CHANGED_SECONDS
                        again = (now + SECOND_THOUGHTS_SECONDS, tenant, number)
                        self._second_thoughts.append(again)
                    yield self._job(tenant, number, now_ms + int(lead_seconds * 1_000))
            self._owed[tenant.name] = owed

    def _think_again(self, client: Client, now: float) -> None:
        """Cancel or replace jobs that were submitted a while ago."""
        while self._second_thoughts and self._second_thoughts[0][0] <= now:
            _, tenant, job_id = self._second_thoughts.popleft()
            if tenant.habit is Habit.CANCELS:
                client.cancel(tenant.name, job_id)
                if self._random.random() < 0.1:
                    client.cancel(tenant.name, f"{job_id}-never-was")
            else:
                client.submit_many([self._job(tenant, job_id, _now_ms() + 1_000)])

    def _job(self, tenant: TenantPlan, job_id: str, due_ms: int) -> Job:
        expires_ms = due_ms + 1_500 if tenant.habit is Habit.EXPIRES else None
        payload = {"job": job_id, "text": "a message to somebody, about a hundred bytes long" * 2}
        return Job(
            tenant=tenant.name, id=job_id, payload=payload, due_at=due_ms, expires_at=expires_ms
        )

    def _next_id(self) -> str:
        return f"job-{next(self._ids)}"

    def _send_bad(self, raw: Producer, record: BadRecord) -> None:
        raw.produce(self._names.jobs, key=record.key, value=record.value, headers=[*record.headers])


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
