"""A cluster, hosts with scheduler processes, producers of jobs; everything from one seed."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import orjson

from streamsched.core import headers as h
from streamsched.core import state
from streamsched.core.names import DEFAULT_TENANT
from streamsched.core.placement import partition_for
from streamsched.engine import runners as runners_module
from streamsched.engine.cluster import Cluster
from streamsched.engine.metrics import Metrics
from streamsched.kafka import directory as directory_module
from streamsched.settings import Settings
from tests.sim.broker import Broker
from tests.sim.disk import SimStores
from tests.sim.faults import Faults
from tests.sim.group import Group
from tests.sim.host import START_MS, Host
from tests.sim.log import ABORTED, COMMITTED, Entry, PartitionLog
from tests.sim.loop import Died, SimLoop
from tests.sim.process import SimProcess, SimRunners
from tests.sim.protocol import Protocol

SETTINGS = Settings(app_id="s")
METRICS = Metrics()
REAL = Protocol(SimRunners, SimStores)

LOGGING_PACKAGES = ("streamsched.engine.", "streamsched.kafka.")
TRANSACTION_SECONDS = 10.0
CHANGELOG_RETENTION_SECONDS = 8.0
EFFECTS_MAX = 200_000
"""A simulation with more effects than this goes round in circles."""


@dataclass
class Shape:
    """How large a world is."""

    partitions: int = 2
    hosts: int = 2
    egress_partitions: int = 1
    has_standbys: bool = True
    """Whether every process follows the partitions that are not its own."""


@dataclass(frozen=True)
class Published:
    """A settings record, as the world remembers it for the judge."""

    at: float
    tenant: str
    fields: dict[str, Any] | None
    is_valid: bool


class TraceLog:
    """Stands where the engine logs; writes into the trace."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def _line(self, event: str, **more: Any) -> None:
        if self._world.traces:
            words = " ".join(f"{name}={value}" for name, value in more.items())
            self._world.note(None, f"log: {event} {words}")

    debug = info = warning = error = _line

    def exception(self, event: str, **more: Any) -> None:
        """An exception that the engine did not expect."""
        self._line(event, **more)
        self._world.faults_seen.append(f"inside: unexpected exception: {event}")


@dataclass
class World:
    """Everything. `run` lets virtual time pass; the other methods are what can happen."""

    seed: int
    shape: Shape = field(default_factory=Shape)
    protocol: Protocol = REAL
    traces: bool = False

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.settings = SETTINGS
        self.names = SETTINGS.names
        self.loop = SimLoop(random.Random(self.rng.random()))
        self.faults = Faults(random.Random(self.rng.random()))
        self.broker = Broker(self.loop, random.Random(self.rng.random()), TRANSACTION_SECONDS)
        self.cluster = Cluster(
            self.shape.partitions,
            "jobs-id",
            "changelog-id",
            "settings-id",
            int(CHANGELOG_RETENTION_SECONDS * 1000),
        )
        for name, partitions in (
            (self.names.jobs, self.shape.partitions),
            (self.names.changelog, self.shape.partitions),
            (self.names.tenant_settings, 1),
            (self.names.rejected, 1),
            (self.names.dead_letters, 1),
            (self.names.events, 1),
        ):
            self.broker.create(name, partitions)
            self.broker.takes_poison.add(name)
        self.hosts = [Host(number, self.loop.time, self.rng) for number in range(self.shape.hosts)]
        self.group = Group(self, self.shape.partitions)
        self.processes: list[SimProcess] = []
        self.started = 0
        self.effects = 0
        self.crash_at_effects: set[int] = set()
        self.restarts = True
        self.trace: list[str] = []
        self.faults_seen: list[str] = []
        """What the engine did that it must never do, as sentences."""
        self.published: list[Published] = []
        self.mended: list[tuple[str, float]] = []
        """Topics that take records again, and since when."""
        self.group_offsets: dict[int, int] = {}
        self.clock_ahead_ms_max = 0.0
        self.clock_behind_ms_max = 0.0

    # --- time ------------------------------------------------------------------------------

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """While it lasts, the engine's modules log here, and take their time from here."""
        log = TraceLog(self)
        with ExitStack() as stack:
            for name, module in list(sys.modules.items()):
                if name.startswith(LOGGING_PACKAGES) and hasattr(module, "log"):
                    stack.enter_context(patch.object(module, "log", log))
            stack.enter_context(
                patch.object(directory_module, "time", SimpleNamespace(monotonic=self.loop.time))
            )
            stack.enter_context(patch.object(runners_module, "Metrics", lambda: METRICS))
            stack.enter_context(patch.object(runners_module, "WebServer", lambda *_: None))
            stack.enter_context(patch.object(runners_module, "Runner", self.protocol.runner))
            for where, name, value in self.protocol.patches:
                stack.enter_context(patch.object(where, name, value))
            try:
                yield
            finally:
                for process in self.living():
                    process.is_alive = False
                self.loop.bury()

    def run(self, seconds: float) -> None:
        """Let virtual seconds pass."""
        self.loop.run_until(self.loop.time() + seconds)

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something at a virtual moment."""
        self.loop.post(None, seconds - self.loop.time(), action)

    def now_ms(self) -> int:
        """True time in epoch milliseconds."""
        return START_MS + int(self.loop.time() * 1000)

    def note(self, process: SimProcess | None, what: str) -> None:
        """A line of the trace."""
        if self.traces:
            name = "--" if process is None else process.name
            self.trace.append(f"{self.loop.time():9.4f} {name:>3} {what}")

    # --- processes -------------------------------------------------------------------------

    def start(self, host: Host) -> None:
        """Start a process on a host that has none."""
        if any(p.host is host and p.is_alive for p in self.processes):
            return
        self.started += 1
        process = SimProcess(self, host, self.started)
        self.processes.append(process)
        self.note(process, "starts")
        process.begin()

    def living(self) -> list[SimProcess]:
        """The processes that were not killed."""
        return [process for process in self.processes if process.is_alive]

    def effect(self, process: SimProcess, what: str) -> None:
        """Before everything that outlives a process; here it may end."""
        if not process.is_alive:
            raise Died
        self.effects += 1
        if self.effects > EFFECTS_MAX:
            raise AssertionError("the simulation goes round in circles")
        self.note(process, f"{what}")
        if self.effects in self.crash_at_effects or self.faults.strikes("crash"):
            self.crash(process)
            raise Died

    def crash(self, process: SimProcess) -> None:
        """Kill -9; the group notices later, and somebody starts the host again."""
        if not process.is_alive:
            return
        self.note(process, "CRASHES")
        self._end(process)
        self.at(self.loop.time() + self.rng.uniform(0.5, 3), lambda: self.group.leave(process))

    def _end(self, process: SimProcess) -> None:
        process.is_alive = False
        self.loop.kill(process)
        process.host.disk.release()
        if self.restarts:
            seconds = self.rng.uniform(0.1, 4)
            self.at(self.loop.time() + seconds, lambda: self.start(process.host))

    def terminate(self, process: SimProcess) -> None:
        """SIGTERM: the process gives up its partitions and leaves."""
        if not process.is_alive or self.loop.is_frozen(process) or process.is_deaf:
            return
        self.note(process, "is told to end")

        def done() -> None:
            self.group.leave(process)
            self._end(process)

        process.leave(done)

    def process_failed(self, process: SimProcess, error: BaseException) -> None:
        """The engine ended its own process, which it only may where it must."""
        self.note(process, f"ends itself: {error!r}")
        self.faults_seen.append(f"inside: process {process} ended itself: {error!r}")
        self.crash(process)

    def freeze(self, process: SimProcess, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later; a zombie if the group has gone on meanwhile."""
        if not process.is_alive or self.loop.is_frozen(process):
            return
        self.note(process, f"freezes for {seconds:.1f} s")
        self.loop.freeze(process)
        self.at(self.loop.time() + min(seconds, 1.5), lambda: self._session_over(process))
        self.at(self.loop.time() + seconds, lambda: self._thaw(process))

    def _thaw(self, process: SimProcess) -> None:
        if process.is_alive and self.loop.is_frozen(process):
            self.note(process, "goes on")
            self.loop.thaw(process)

    def _session_over(self, process: SimProcess) -> None:
        if process.is_alive and (self.loop.is_frozen(process) or process.is_deaf):
            self.group.rebalance()

    def deafen(self, process: SimProcess, seconds: float) -> None:
        """Cut a process off from the group: it goes on, and others are given its partitions."""
        if not process.is_alive or process.is_deaf:
            return
        self.note(process, f"is cut off from the group for {seconds:.1f} s")
        process.is_deaf = True
        self.at(self.loop.time() + 0.5, lambda: self._session_over(process))
        self.at(self.loop.time() + seconds, lambda: self._hear(process))

    def _hear(self, process: SimProcess) -> None:
        was_deaf, process.is_deaf = process.is_deaf, False
        if process.is_alive and was_deaf:
            self.group.hear(process)

    def set_clock(self, host: Host, by_ms: float, drift: float = 0.0) -> None:
        """Put a host's clock ahead of true time or behind it, from now on drifting."""
        self.note_clocks()
        host.clock.offset_ms = by_ms - self.loop.time() * 1000 * drift
        host.clock.drift = drift
        self.note_clocks()
        self.note(None, f"clock of host {host.number} is {by_ms:+.0f} ms, drift {drift:+.4f}")

    def note_clocks(self) -> None:
        for host in self.hosts:
            error_ms = host.clock.error_ms()
            self.clock_ahead_ms_max = max(self.clock_ahead_ms_max, error_ms)
            self.clock_behind_ms_max = max(self.clock_behind_ms_max, -error_ms)

    def lose_disk(self, host: Host) -> None:
        """The host's process dies, and its disk is empty when it comes back."""
        self._crash_host(host)
        host.disk.lose()
        self.note(None, f"host {host.number} loses its disk")

    def lose_power(self, host: Host) -> None:
        """The host's process dies, and what was not synced to its disk is gone."""
        self._crash_host(host)
        host.disk.lose_power()
        self.note(None, f"host {host.number} loses power")

    def _crash_host(self, host: Host) -> None:
        for process in self.living():
            if process.host is host:
                self.crash(process)

    def cut_off_brokers(self, seconds: float) -> None:
        """No call reaches a broker for a while."""
        self.note(None, f"the brokers are away for {seconds:.0f} s")
        self.faults.is_outage = True

        def come_back() -> None:
            self.faults.is_outage = False
            self.note(None, "the brokers are back")

        self.at(self.loop.time() + seconds, come_back)

    # --- topics ----------------------------------------------------------------------------

    def jobs_log(self, partition: int) -> PartitionLog:
        """The ingress."""
        return self.broker.log(self.names.jobs, partition)

    def compact_changelog(self, partition: int) -> None:
        """The log cleaner passes over a changelog partition."""
        log = self.broker.log(self.names.changelog, partition)
        removed = log.compact(self.loop.time(), CHANGELOG_RETENTION_SECONDS)
        self.note(None, f"changelog {partition} compacted by {removed}")

    def compact_settings(self) -> None:
        """The log cleaner takes away valid records that an invalid one follows, and tombstones.

        Only what the owner of the tenant has in its state: that is what the contract speaks of.
        """
        log = self.broker.log(self.names.tenant_settings)
        now = self.loop.time()
        removed = log.compact(now, 1.0, keeps=lambda entry: not self._is_taken_in(entry))
        self.note(None, f"settings compacted by {removed}")

    def _is_taken_in(self, entry: Entry) -> bool:
        """Whether everyone who must know a settings record has committed it to its changelog."""
        tenant = (entry.key or b"").decode()
        partitions = range(self.shape.partitions)
        if tenant != DEFAULT_TENANT:
            partitions = range(self._placed(tenant, None), self._placed(tenant, None) + 1)
        for partition in partitions:
            rows = self.broker.log(self.names.changelog, partition).rows()
            row = rows.get(state.SETTINGS_PREFIX + (entry.key or b""))
            known = -1 if row is None else state.decode_own_settings(row)[0]
            if (known >= 0) if entry.value is None else (known < entry.offset):
                return False
        return True

    def refuse(self, topic: str, *, refuses: bool) -> None:
        """A topic that looks good refuses records, or takes them again."""
        found = self.broker.topics.get(topic)
        if found is not None:
            if found.refuses and not refuses:
                self.mended.append((topic, self.loop.time()))
            found.refuses = refuses
            self.note(None, f"{topic} {'refuses' if refuses else 'takes'} records")

    def hide(self, topic: str, *, missing: bool) -> None:
        """A topic is deleted, or made again."""
        found = self.broker.topics.get(topic)
        if found is not None:
            found.missing = missing
            self.note(None, f"{topic} {'is missing' if missing else 'is there again'}")

    # --- producers -------------------------------------------------------------------------

    def submit(
        self,
        tenant: str,
        job_id: str,
        *,
        due_in_ms: int = 0,
        expires_in_ms: int | None = None,
        key: str | None = None,
        delay: bool = False,
        partition: int | None = None,
        payload: bytes = b"x",
        headers: list[tuple[str, bytes | None]] | None = None,
    ) -> tuple[Any, ...]:
        """A job's record for `produce`."""
        now_ms = self.now_ms()
        marks: list[tuple[str, bytes | None]] = [*(headers or []), (h.ID, job_id.encode())]
        if delay:
            marks.append((h.DELAY_MS, b"%d" % max(0, due_in_ms)))
        else:
            marks.append((h.DUE_AT, b"%d" % (now_ms + due_in_ms)))
        if expires_in_ms is not None:
            marks.append((h.EXPIRES_AT, b"%d" % (now_ms + expires_in_ms)))
        if key is not None:
            marks.append((h.KEY, key.encode()))
        return self._placed(tenant, partition), tenant.encode(), payload, marks, now_ms

    def cancel(self, tenant: str, job_id: str, partition: int | None = None) -> tuple[Any, ...]:
        """A cancel's record for `produce`."""
        marks: list[tuple[str, bytes | None]] = [(h.ID, job_id.encode())]
        return self._placed(tenant, partition), tenant.encode(), None, marks, self.now_ms()

    def bad(self, partition: int) -> tuple[Any, ...]:
        """A record that cannot be read."""
        return partition, b"bad", b"{", [], self.now_ms()

    def _placed(self, tenant: str, partition: int | None) -> int:
        if partition is not None:
            return partition
        return partition_for(tenant.encode(), self.shape.partitions)

    def produce(self, records: list[tuple[Any, ...]], way: str = "plain") -> None:
        """Write to the ingress: plainly, or in an outsider's transaction."""
        transaction = None if way == "plain" else self.broker.begin("outsider")
        for partition, key, value, marks, timestamp in records:
            self.note(None, f"ingress {partition}: {key!r} {marks}")
            log = self.jobs_log(partition)
            self.broker.append(log, key, value, marks, timestamp, transaction)
        if transaction is not None:
            outcome = ABORTED if way == "aborted" else COMMITTED
            self.at(
                self.loop.time() + self.rng.choice((0.01, 0.2, 2.0)),
                lambda: self.broker.end_of_outsider(transaction, outcome),
            )

    def publish(self, tenant: str, fields: dict[str, Any] | None, *, is_valid: bool = True) -> None:
        """Write a settings record, or a tombstone."""
        self.note(None, f"settings {tenant}: {fields}")
        self.published.append(Published(self.loop.time(), tenant, fields, is_valid))
        log = self.broker.log(self.names.tenant_settings)
        value = None if fields is None else orjson.dumps(fields)
        self.broker.append(log, tenant.encode(), value, (), self.now_ms())

    # --- the end ---------------------------------------------------------------------------

    def mend(self) -> None:
        """Nothing goes wrong from here on, and what was broken is whole."""
        self.note_clocks()
        self.faults.stop()
        self.crash_at_effects.clear()
        for name in list(self.broker.topics):
            self.refuse(name, refuses=False)
            self.hide(name, missing=False)
        for process in self.living():
            self._thaw(process)
            if process.is_deaf:
                self._hear(process)
        for host in self.hosts:
            self.set_clock(host, host.clock.error_ms())
            self.start(host)

    def is_quiet(self) -> bool:
        """Whether every ingress record was taken in, and no job is left in any changelog."""
        for partition in range(self.shape.partitions):
            log = self.broker.log(self.names.changelog, partition)
            rows = log.rows()
            if any(value is not None and key and key[0] > 2 for key, value in rows.items()):
                return False
            position = rows.get(b"\x01o")
            jobs = self.jobs_log(partition)
            if jobs.stable < jobs.end:
                return False
            if jobs.end and (
                position is None or int.from_bytes(position[1:9], "big") < jobs.stable
            ):
                return False
        return True
