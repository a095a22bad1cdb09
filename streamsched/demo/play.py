"""Plays the demo: starts everything, follows the scenario, lets the checker judge, cleans up."""

import itertools
import math
import os
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from confluent_kafka import Producer

from streamsched.client import Client, Job
from streamsched.core.names import TopicNames
from streamsched.demo.checker import judge
from streamsched.demo.evidence import Facts
from streamsched.demo.reader import TopicReader
from streamsched.demo.scenario import (
    INVALID,
    KILL,
    PAUSE,
    RESUME,
    SET_RATE,
    STAY_THROTTLED,
    STEPS,
    TENANTS,
    Step,
)
from streamsched.demo.scheduler import DemoScheduler
from streamsched.demo.screen import Screen
from streamsched.demo.snapshot import TenantRow, take_rows
from streamsched.demo.traffic import Traffic
from streamsched.demo.verdict import Verdict
from streamsched.kafka import admin
from streamsched.kafka.embedded import EmbeddedKafka

REFRESH_SECONDS: Final = 0.5
READY_SECONDS_MAX: Final = 60.0
FIRST_JOBS_SECONDS_MAX: Final = 30.0
DOWN_SECONDS: Final = 1.0
"""How long the killed scheduler stays away before it is started again."""
LAST_DUE_SECONDS: Final = 3.5
"""After the end of traffic, until its last jobs are due and have left."""
DRAIN_SECONDS_MAX: Final = 20.0
WARM_TENANT: Final = "quartz"
"""Has no rate that would hold back the jobs that warm Kafka up."""
WARM_JOBS: Final = 50
WARM_SECONDS: Final = 0.25
"""Kafka is warm when it handles so many jobs within this."""
WARM_SECONDS_MAX: Final = 15.0
LOAD_PER_CORE_MAX: Final = 1.75
"""What the demo needs by itself is less."""
QUIET_SECONDS: Final = 1.5
"""How long is waited in the end for what must not come any more, such as a second dispatch."""


class DemoError(Exception):
    """The demo cannot go on; the text is one sentence for the user, perhaps with a log."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a whole run found."""

    verdicts: list[Verdict]
    dispatched: int

    @property
    def kept(self) -> bool:
        """Whether no promise was seen broken."""
        return all(verdict.kept for verdict in self.verdicts)


def play(traffic_seconds: float, screen: Screen) -> Outcome:
    """Run the demo in a temporary folder; everything is gone when it returns or raises.

    Raises `DemoError`, and what Kafka or the SDK raise where the machine does not play along.
    """
    with tempfile.TemporaryDirectory(prefix="streamsched-demo-", ignore_cleanup_errors=True) as d:
        folder = Path(d)
        screen.say("starting Kafka")
        with EmbeddedKafka(folder / "kafka") as kafka:
            return _Demo(screen, kafka, folder, traffic_seconds).run()


class _Demo:
    """One run on a Kafka that is there."""

    def __init__(
        self, screen: Screen, kafka: EmbeddedKafka, folder: Path, traffic_seconds: float
    ) -> None:
        self._screen = screen
        self._kafka = kafka
        self._seconds = traffic_seconds
        self._servers = kafka.bootstrap_servers
        self._names = TopicNames()
        self._scheduler = DemoScheduler(self._servers, self._names.app_id, folder)
        self._reader = TopicReader(self._servers, self._names)
        seed = random.SystemRandom().getrandbits(32)
        self._traffic = Traffic(self._servers, self._names, TENANTS, seed)
        self._client = Client(self._servers, self._names.app_id, {"log_level": 0})
        self._notes = {tenant.name: tenant.note for tenant in TENANTS}
        self._stage = ""
        self._start_ms = 0
        self._kills_ms: list[int] = []
        self._restart_at = math.inf
        self._recovering = False

    def run(self) -> Outcome:
        try:
            self._prepare()
            with self._screen:
                self._play_traffic()
                self._drain()
            self._screen.say("stopping the scheduler, reading the topics to their ends")
            end_ms = _now_ms()
            self._scheduler.stop()
            self._reader.stop()
            self._reader.read_to_end()
        finally:
            self._traffic.stop()
            self._scheduler.stop()
            self._reader.stop()
            self._client.close()
        verdicts = judge(self._reader.ledger, Facts(end_ms, self._kills_ms, self._start_ms))
        self._screen.print_verdicts(verdicts, self._start_ms)
        self._say_load()
        return Outcome(verdicts, len(self._reader.ledger.dispatches))

    # --- the acts --------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Topics, rates, a scheduler that is ready, and one job of each tenant."""
        self._screen.say(f"Kafka is at {self._servers}; making topics, setting 20 tenants' rates")
        admin.apply({"bootstrap.servers": self._servers}, self._names)
        for tenant in TENANTS:
            self._client.set_tenant(tenant.name, rate=tenant.rate, burst=tenant.burst)
        self._reader.start()
        self._screen.say("starting the scheduler")
        self._scheduler.start()
        self._wait("the scheduler is ready", self._scheduler.is_ready, READY_SECONDS_MAX)
        # The first job of a tenant makes its egress topic; from then on its reader is there.
        for tenant in TENANTS:
            self._client.submit(tenant.name, "first", {"hello": tenant.name}, due_at=_now_ms())
        ledger = self._reader.ledger
        self._wait(
            "every tenant's first job is there",
            lambda: len(ledger.dispatches) >= len(TENANTS),
            FIRST_JOBS_SECONDS_MAX,
        )
        self._screen.say("warming Kafka up")
        self._warm_up()

    def _warm_up(self) -> None:
        """Jobs until Kafka is quick: one that has just started takes a second for a transaction.

        A tenant that is throttled gets less than its rate from such transactions.
        """
        deadline = time.monotonic() + WARM_SECONDS_MAX
        for wave in itertools.count():
            if self._seconds_of_wave(wave) < WARM_SECONDS or time.monotonic() > deadline:
                return

    def _seconds_of_wave(self, wave: int) -> float:
        """Submit jobs that are due, and say after how long all of them had left."""
        began = time.monotonic()
        dispatches = self._reader.ledger.dispatches
        wanted = len(dispatches) + WARM_JOBS
        due_ms = _now_ms()
        self._client.submit_many(
            Job(tenant=WARM_TENANT, id=f"warm-{wave}-{n}", payload=n, due_at=due_ms)
            for n in range(WARM_JOBS)
        )
        self._wait(
            "the jobs that warm Kafka up are there",
            lambda: len(dispatches) >= wanted,
            FIRST_JOBS_SECONDS_MAX,
        )
        return time.monotonic() - began

    def _play_traffic(self) -> None:
        """The scenario, step by step."""
        begin = time.monotonic()
        steps = list(STEPS)
        self._stage = "traffic"
        self._start_ms = _now_ms()
        self._traffic.start()
        while (passed := time.monotonic() - begin) < self._seconds:
            while steps and steps[0].at_share * self._seconds <= passed:
                self._take_step(steps.pop(0))
            self._attend()
            self._show(f"{passed:3.0f} of {self._seconds:.0f} s")
            time.sleep(REFRESH_SECONDS)
        self._traffic.stop()
        self._traffic.check()

    def _drain(self) -> None:
        """Let the last jobs become due, then lift the rates until nothing is left."""
        self._stage = "traffic has ended, the last jobs become due"
        self._show_until(lambda: False, LAST_DUE_SECONDS)
        self._screen.print_table(self._rows(), "when traffic had ended:")
        self._stage = "all rates but birch's are lifted"
        for tenant in TENANTS:
            if tenant.name not in STAY_THROTTLED:
                self._client.set_tenant(tenant.name, rate="unlimited")
        self._show_until(self._is_drained, DRAIN_SECONDS_MAX)
        self._show_until(lambda: False, QUIET_SECONDS)

    def _take_step(self, step: Step) -> None:
        if step.action == KILL:
            self._scheduler.kill()
            self._kills_ms.append(_now_ms())
            self._restart_at = time.monotonic() + DOWN_SECONDS
            self._stage = "SCHEDULER KILLED (kill -9)"
        elif step.action == PAUSE:
            self._client.pause(step.tenant)
            self._notes[step.tenant] = "paused now"
        elif step.action == RESUME:
            self._client.resume(step.tenant)
            self._notes[step.tenant] = "resumed"
        elif step.action == SET_RATE:
            before = self._client.tenants()[step.tenant].rate
            self._client.set_tenant(step.tenant, rate=step.rate)
            self._notes[step.tenant] = f"was {before}"
        elif step.action == INVALID:
            self._publish_invalid(step.tenant)

    def _publish_invalid(self, tenant: str) -> None:
        """Publish settings that mean nothing, past the SDK, which would refuse them."""
        producer = Producer({"bootstrap.servers": self._servers, "log_level": 0})
        producer.produce(self._names.tenant_settings, key=tenant, value=b'{"rate": "0/s"}')
        producer.flush(10)

    def _attend(self) -> None:
        """Restart the scheduler that was killed; nothing else may end by itself."""
        self._reader.check()
        self._traffic.check()
        if time.monotonic() >= self._restart_at:
            self._restart_at = math.inf
            self._recovering = True
            self._stage = "SCHEDULER RESTARTED, recovering"
            self._scheduler.start()
        if self._recovering and self._scheduler.is_ready():
            self._recovering = False
            self._stage = "traffic; scheduler recovered"
        if math.isinf(self._restart_at) and not self._scheduler.running():
            raise DemoError(
                f"the scheduler ended by itself; the end of its log:\n{self._scheduler.log_tail()}"
            )
        if not self._kafka.running():
            raise DemoError(f"Kafka ended by itself; the end of its log:\n{self._kafka.log_tail()}")

    def _say_load(self) -> None:
        """A machine that is busy with other things explains what is late, and excuses nothing."""
        cores = os.cpu_count() or 1
        load = os.getloadavg()[0]
        if load > LOAD_PER_CORE_MAX * cores:
            self._screen.say(
                f"note: load {load:.0f} on {cores} cores: what was late may be for want of a core",
                "yellow",
            )

    # --- looking ---------------------------------------------------------------------------

    def _rows(self) -> list[TenantRow]:
        with self._reader.lock:
            return take_rows(self._reader.ledger, self._notes, _now_ms())

    def _show(self, when: str) -> None:
        alarm = self._recovering or not math.isinf(self._restart_at)
        self._screen.show(self._rows(), f"{when}   {self._stage}", alarm=alarm)

    def _show_until(self, is_so: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not is_so() and time.monotonic() < deadline:
            self._attend()
            self._show("drain")
            time.sleep(REFRESH_SECONDS)

    def _is_drained(self) -> bool:
        with self._reader.lock:
            pending = self._reader.ledger.open
            return not any(jobs for name, jobs in pending.items() if name not in STAY_THROTTLED)

    def _wait(self, what: str, is_so: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            self._attend()
            if time.monotonic() > deadline:
                raise DemoError(
                    f"{what}: not within {seconds:.0f} s; the end of the scheduler's log:\n"
                    f"{self._scheduler.log_tail()}"
                )
            time.sleep(0.05)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
