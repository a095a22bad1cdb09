"""What happens in a world of a given seed: its load, and what goes wrong in it.

A seed takes few kinds of faults and uses them well, rather than a little of everything: that is
what finds the rare ones.
"""

import random
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from streamsched.core import judging, trials
from streamsched.core.names import DEFAULT_TENANT
from streamsched.engine import ingress_buffer, runner
from streamsched.kafka import directory
from tests.property.strategies import SMALL_LIMITS as CORE_LIMITS
from tests.sim.clients import POISON
from tests.sim.judge import Judge
from tests.sim.protocol import Protocol
from tests.sim.store_checks import faults_of_store
from tests.sim.world import REAL, Shape, World

LOAD_SECONDS = 12.0
QUIET_SECONDS_MAX = 90.0
POISON_SECONDS_MAX = 180.0
"""Until all is at rest where jobs are refused; each takes its tenant up to 20 s."""

POISON_MAX = 4
"""Jobs of a world that are refused; with more in a row, the topic would be taken to be at fault."""
RATES = ("unlimited", "unlimited", "5/s", "2/s", "1/333ms", "3/2s", "20/s")

CALL_FAULTS: dict[str, float] = {
    "init is busy": 0.3,
    "produce raises": 0.02,
    "batch is cut": 0.05,
    "transaction times out": 0.05,
    "commit is lost": 0.1,
    "commit is refused": 0.15,
    "answer to commit is late": 0.1,
    "answer to commit is lost": 0.1,
    "abort is lost": 0.5,
    "changelog is unreadable": 0.05,
    "ingress is unreadable": 0.1,
    "crash": 0.01,
}
"""How often a fault strikes, in a world that has it."""

EVENTS = (
    "crash", "terminate", "freeze", "deafen", "rebalance", "lose disk", "lose power", "outage",
    "clock", "compact changelog", "compact settings", "refuse", "hide", "settings", "spoil",
)  # fmt: skip

SMALL_LIMITS: tuple[tuple[Any, str, Any], ...] = (
    *(
        (module, name, value)
        for module, all_ in CORE_LIMITS.items()
        for name, value in all_.items()
    ),
    (ingress_buffer, "INGRESS_RECORDS_PER_CYCLE_MAX", 3),
    (runner, "INGRESS_RECORDS_PER_CYCLE_MAX", 16),
)
"""Bounds so small that a scenario's few jobs meet them."""


SHORT_RESTS: tuple[tuple[Any, str, Any], ...] = (
    (trials, "REFUSED_REST_MS", 1_500),
    (judging, "REFUSED_REST_MS", 1_500),
    (trials, "CONDEMNED_REST_MS", 300),
    (trials, "PROOF_MS_MAX", 500),
    (directory, "REFUSAL_SECONDS", 1.5),
)
"""What is refused is tried again while the scenario lasts."""


@dataclass(frozen=True)
class Aim:
    """Where a scenario looks, if it is not to look everywhere."""

    calls: tuple[str, ...] = ()
    """Faults that strike at calls."""
    events: tuple[str, ...] = ()
    rates: tuple[str, ...] = RATES
    poison: float | None = None
    """How often a job is one that the broker refuses."""


class Scenario:
    """Lets one world live from its seed to its judgement."""

    def __init__(
        self,
        seed: int,
        *,
        protocol: Protocol = REAL,
        traces: bool = False,
        aim: Aim | None = None,
    ) -> None:
        self.rng = random.Random(f"scenario {seed}")
        rng = self.rng
        shape = Shape(
            partitions=rng.choice((1, 2, 2)),
            hosts=rng.choice((1, 2, 2, 3)),
            egress_partitions=rng.choice((1, 1, 3)),
            has_standbys=rng.random() < 0.5,
        )
        if rng.random() < 0.4:
            protocol = replace(protocol, patches=(*SMALL_LIMITS, *protocol.patches))
        if rng.random() < 0.5:
            protocol = replace(protocol, patches=(*SHORT_RESTS, *protocol.patches))
        self.poison = rng.choice((0.0, 0.0, 0.05, 0.2))
        if aim is not None and aim.poison is not None:
            self.poison = aim.poison
        self.poisoned = 0
        self.world = World(seed, shape, protocol, traces)
        self.tenants = [f"t{number}" for number in range(rng.choice((1, 2, 3)))]
        self.aim = aim
        self.events: list[str] = []
        self.submitted: list[tuple[str, str]] = []

    def run(self) -> list[str]:
        """Everything that went wrong; empty if nothing did."""
        world = self.world
        try:
            with world.in_force():
                for host in world.hosts:
                    world.at(self.rng.random() * 0.5, lambda host=host: world.start(host))
                self._plan()
                world.run(LOAD_SECONDS)
                inspect(world)
                return verdict(world, self.tenants, is_poisoned=self.poisoned > 0)
        except Exception as error:  # noqa: BLE001 - whatever it is, other seeds are to run, too
            # Where it came from is told by the trace, which is shown when the seed is run alone.
            world.note(None, traceback.format_exc())
            return [f"inside: seed {world.seed} ended with {error!r}"]

    # --- planning --------------------------------------------------------------------------

    def _plan(self) -> None:
        rng, world = self.rng, self.world
        kinds = rng.sample(sorted(CALL_FAULTS), rng.choice((0, 1, 2, 3)))
        self.events = rng.sample(EVENTS, rng.choice((1, 2, 3)))
        if rng.random() < 0.3:
            self.events += ["freeze", "deafen"]
        if self.aim is not None:
            kinds = list(self.aim.calls)
            self.events = list(self.aim.events) or self.events
        for kind in kinds:
            world.faults.rates[kind] = CALL_FAULTS[kind]
        if rng.random() < 0.2:
            world.broker.marker_seconds_max = 0.5
        if rng.random() < 0.3:
            world.loop.shuffles = False
        if rng.random() < 0.5:
            first = rng.randrange(20, 400)
            world.crash_at_effects = {first, first + rng.randrange(1, 100)}
        self._plan_settings()
        for _ in range(rng.randrange(3, 12)):
            world.at(rng.random() * LOAD_SECONDS * 0.9, self._load)
        for _ in range(rng.randrange(3, 10) if self.aim is None else rng.randrange(5, 15)):
            at = 1.0 + rng.random() * (LOAD_SECONDS - 1.5)
            world.at(at, self._happening(rng.choice(self.events)))

    def _plan_settings(self) -> None:
        rng, world = self.rng, self.world
        for tenant in self.tenants:
            if rng.random() < 0.8:
                fields = self._some_settings()
                world.at(rng.random() * 0.2, lambda t=tenant, f=fields: world.publish(t, f))

    def _some_settings(self) -> dict[str, Any]:
        rng = self.rng
        rates = RATES if self.aim is None else self.aim.rates
        fields: dict[str, Any] = {"rate": rng.choice(rates)}
        if rng.random() < 0.3:
            fields["burst"] = rng.choice((2, 3, 5))
        if rng.random() < 0.3:
            fields["egress_topic"] = "shared"
        if self.world.shape.egress_partitions > 1:
            fields["egress_partitions"] = self.world.shape.egress_partitions
        if rng.random() < 0.2:
            fields["events"] = "all"
        return fields

    def _load(self) -> None:
        """A few records, written together."""
        rng, world = self.rng, self.world
        records = []
        tenant = rng.choice(self.tenants)
        for _ in range(rng.choice((1, 2, 5, 12))):
            if rng.random() < 0.3:
                tenant = rng.choice(self.tenants)
            anywhere = rng.randrange(world.shape.partitions) if rng.random() < 0.1 else None
            kind = rng.random()
            if kind < 0.75 or not self.submitted:
                job_id = str(rng.randrange(12)) if rng.random() < 0.4 else f"j{rng.random():.9f}"
                self.submitted.append((tenant, job_id))
                due_in_ms = rng.choice((-5_000, 0, 0, 200, 1_000, 1_500, 3_000, 6_000))
                due_in_ms += rng.randrange(-50, 50)
                expires = due_in_ms + rng.choice((-100, 1, 500, 2_000))
                records.append(
                    world.submit(
                        tenant,
                        job_id,
                        due_in_ms=due_in_ms,
                        expires_in_ms=expires if rng.random() < 0.2 else None,
                        key=rng.choice((None, None, "k1", "k2")),
                        delay=rng.random() < 0.1,
                        partition=anywhere,
                        payload=self._some_payload(),
                        headers=[("x", b"1"), ("x", None)] if rng.random() < 0.1 else None,
                    )
                )
            elif kind < 0.93:
                records.append(world.cancel(*rng.choice(self.submitted), anywhere))
            else:
                records.append(world.bad(rng.randrange(world.shape.partitions)))
        way = rng.choices(("plain", "committed", "aborted"), (8, 1, 1))[0]
        world.produce(records, way)

    def _some_payload(self) -> bytes:
        if self.poisoned < POISON_MAX and self.rng.random() < self.poison:
            self.poisoned += 1
            return POISON
        return b"%d" % self.rng.randrange(1_000)

    def _happening(self, kind: str) -> Callable[[], None]:
        """Something of a kind that happens to the world."""
        rng, world = self.rng, self.world

        def somebody() -> Any:
            living = world.living()
            return rng.choice(living) if living else None

        def to_somebody(action: Callable[[Any], None]) -> Callable[[], None]:
            def act() -> None:
                process = somebody()
                if process is not None:
                    action(process)

            return act

        def briefly(action: Callable[..., None], name: str) -> Callable[[], None]:
            def act() -> None:
                topic = rng.choice([world.names.egress(t) for t in self.tenants] + ["shared"])
                action(topic, **{name: True})
                end = world.loop.time() + rng.choice((0.5, 3.0, 8.0))
                world.at(end, lambda: action(topic, **{name: False}))

            return act

        host = rng.choice(world.hosts)
        tenant = rng.choice([*self.tenants, "*"])
        fields = self._some_settings()
        if rng.random() < 0.2:
            fields["paused"] = True
        actions: dict[str, Callable[[], None]] = {
            "crash": to_somebody(world.crash),
            "terminate": to_somebody(world.terminate),
            "freeze": to_somebody(lambda p: world.freeze(p, rng.choice((0.3, 3.0, 7.0, 9.0)))),
            "deafen": to_somebody(lambda p: world.deafen(p, rng.choice((1.0, 4.0, 6.0)))),
            "rebalance": world.group.rebalance,
            "lose disk": lambda: world.lose_disk(host),
            "outage": lambda: world.cut_off_brokers(rng.choice((1.0, 4.0, 12.0))),
            "lose power": lambda: world.lose_power(host),
            "clock": lambda: world.set_clock(
                host, rng.choice((-3_000, -900, -20, 20, 900)), rng.choice((0, 0, -0.02, 0.02))
            ),
            "compact changelog": lambda: [
                world.compact_changelog(p) for p in range(world.shape.partitions)
            ],
            "compact settings": world.compact_settings,
            "refuse": briefly(world.refuse, "refuses"),
            "hide": briefly(world.hide, "missing"),
            "settings": lambda: world.publish(tenant, fields),
            "spoil": self._spoil,
        }
        return actions[kind]

    def _spoil(self) -> None:
        """An invalid settings record; a new process finds nothing else after a compaction."""
        world = self.world
        known = [p.tenant for p in world.published if p.is_valid and p.fields is not None]
        if not known:
            return
        world.publish(self.rng.choice(known), {"rate": "0/s"}, is_valid=False)
        soon = world.loop.time() + self.rng.choice((0.1, 1.0))
        world.at(soon, world.compact_settings)
        world.at(soon + 0.1, self._happening(self.rng.choice(("crash", "lose disk", "rebalance"))))


def verdict(world: World, tenants: Iterable[str], *, is_poisoned: bool = False) -> list[str]:
    """Mend everything, let all jobs leave, and judge.

    With `is_poisoned` tenants go on sending: only by other jobs is it found out which are refused.
    """
    tenants = list(tenants)
    world.mend()
    for tenant in [*tenants, DEFAULT_TENANT]:
        world.publish(tenant, {"rate": "unlimited"})
    seconds = POISON_SECONDS_MAX if is_poisoned else QUIET_SECONDS_MAX
    end = world.loop.time() + seconds
    while not world.is_quiet() and world.loop.time() < end:
        if is_poisoned:
            number = f"{world.loop.time():.0f}"
            proofs = [
                world.submit(tenant, f"proof-{number}", due_in_ms=-5_000) for tenant in tenants
            ]
            world.produce(proofs)
        world.run(2.0)
    if not world.is_quiet():
        world.faults_seen.append(f"not at rest {seconds:.0f} s after the last fault")
    world.run(0.5)
    found = Judge(world).judge()
    for context in world.loop.unhandled:
        found.append(f"inside: {context.get('message')} {context.get('exception')!r}")
    return found


def inspect(world: World) -> None:
    """Compare the stores of all runners that work with what the changelog comes to."""
    for process in world.living():
        for number, it in process.runners.runners.items():
            if it.partition is not None:
                for fault in faults_of_store(world, it.partition):
                    world.faults_seen.append(f"inside: {process} partition {number}: {fault}")
