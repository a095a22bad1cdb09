"""Hypothesis drives a simulated world, and shrinks what breaks it."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from tests.sim.faults import KINDS
from tests.sim.process import SimProcess
from tests.sim.scenario import inspect, verdict
from tests.sim.world import Shape, World

TENANTS = ("a", "b")
IDS = st.sampled_from([str(number) for number in range(6)])
MOMENTS_MS = st.sampled_from([-3_000, 0, 1, 700, 2_000, 5_000])
ANYWHERE = st.sampled_from([None, None, None, 0, 1])
SOMEBODY = st.integers(0, 3)


class WorldMachine(RuleBasedStateMachine):
    """Jobs, cancels and settings; kills, zombies, rebalances and answers that get lost."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(1, Shape(partitions=2, hosts=2))
        self.stack = ExitStack()
        self.stack.enter_context(self.world.in_force())
        for host in self.world.hosts:
            self.world.start(host)
        self.world.run(1.0)

    def someone(self, number: int) -> SimProcess | None:
        """One of the processes that live."""
        living = self.world.living()
        return living[number % len(living)] if living else None

    def to(self, number: int, action: Callable[[SimProcess], None]) -> None:
        """Do something to one of the processes."""
        process = self.someone(number)
        if process is not None:
            action(process)

    @rule(
        tenant=st.sampled_from(TENANTS),
        job_ids=st.lists(IDS, min_size=1, max_size=5),
        due_in_ms=MOMENTS_MS,
        lasts_ms=st.none() | st.sampled_from([-1, 1, 1_000]),
        partition=ANYWHERE,
        way=st.sampled_from(["plain", "plain", "committed", "aborted"]),
    )
    def submit(
        self,
        tenant: str,
        job_ids: list[str],
        due_in_ms: int,
        lasts_ms: int | None,
        partition: int | None,
        way: str,
    ) -> None:
        """Jobs: some replace others, lie on the wrong partition, or were never committed."""
        expires = None if lasts_ms is None else due_in_ms + lasts_ms
        records = [
            self.world.submit(
                tenant, job_id, due_in_ms=due_in_ms, expires_in_ms=expires, partition=partition
            )
            for job_id in job_ids
        ]
        self.world.produce(records, way)

    @rule(tenant=st.sampled_from(TENANTS), job_id=IDS, partition=ANYWHERE)
    def cancel(self, tenant: str, job_id: str, partition: int | None) -> None:
        """A cancel of something that may be there."""
        self.world.produce([self.world.cancel(tenant, job_id, partition)])

    @rule(
        tenant=st.sampled_from([*TENANTS, "*"]),
        fields=st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "rate": st.sampled_from(["2/s", "1/333ms", "20/s"]),
                "burst": st.integers(1, 3),
                "paused": st.booleans(),
                "egress_topic": st.just("shared"),
            },
        ),
    )
    def change(self, tenant: str, fields: dict[str, Any] | None) -> None:
        """Settings, or their removal."""
        self.world.publish(tenant, fields)

    @rule(tenant=st.sampled_from(TENANTS), compacts=st.booleans())
    def spoil(self, tenant: str, *, compacts: bool) -> None:
        """An invalid settings record, after which the valid one may be compacted away."""
        known = {p.tenant for p in self.world.published if p.is_valid and p.fields is not None}
        if tenant in known:
            self.world.publish(tenant, {"rate": "0/s"}, is_valid=False)
            if compacts:
                self.world.compact_settings()

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.5, 2.0, 6.0, 20.0]))
    def advance(self, seconds: float) -> None:
        """Time passes; every store is what its changelog comes to."""
        self.world.run(seconds)
        inspect(self.world)
        assert not self.world.faults_seen

    @rule(kind=st.sampled_from(KINDS), times=st.integers(1, 3))
    def arm(self, kind: str, times: int) -> None:
        """The next calls of a kind go wrong."""
        self.world.faults.armed[kind] += times

    @rule(number=SOMEBODY)
    def crash(self, number: int) -> None:
        """Kill -9."""
        self.to(number, self.world.crash)

    @rule(number=SOMEBODY)
    def terminate(self, number: int) -> None:
        """SIGTERM."""
        self.to(number, self.world.terminate)

    @rule(number=SOMEBODY, seconds=st.sampled_from([0.5, 4.0, 7.0]))
    def freeze(self, number: int, seconds: float) -> None:
        """SIGSTOP, then SIGCONT: a zombie, if it lasts."""
        self.to(number, lambda process: self.world.freeze(process, seconds))

    @rule(number=SOMEBODY, seconds=st.sampled_from([1.0, 5.0]))
    def deafen(self, number: int, seconds: float) -> None:
        """A process goes on though the group has given its partitions to others."""
        self.to(number, lambda process: self.world.deafen(process, seconds))

    @rule()
    def rebalance(self) -> None:
        """The group assigns anew."""
        self.world.group.rebalance()

    @rule(number=st.integers(0, 1))
    def lose_disk(self, number: int) -> None:
        """A host comes back with nothing."""
        self.world.lose_disk(self.world.hosts[number])

    @rule(number=st.integers(0, 1))
    def lose_power(self, number: int) -> None:
        """A host comes back with what it had a while ago."""
        self.world.lose_power(self.world.hosts[number])

    @rule(seconds=st.sampled_from([1.0, 11.0, 70.0]))
    def cut_off_brokers(self, seconds: float) -> None:
        """No broker can be reached, perhaps for longer than a commit is patient."""
        self.world.cut_off_brokers(seconds)

    @rule(number=st.integers(0, 1), by_ms=st.sampled_from([-3_000, -100, 0, 900]))
    def set_clock(self, number: int, by_ms: int) -> None:
        """A wall clock is set."""
        self.world.set_clock(self.world.hosts[number], by_ms)

    @rule(partition=st.integers(0, 1))
    def compact(self, partition: int) -> None:
        """The log cleaner comes by."""
        self.world.compact_changelog(partition)

    @rule(tenant=st.sampled_from(TENANTS), refuses=st.booleans())
    def refuse(self, tenant: str, *, refuses: bool) -> None:
        """A topic refuses what is sent to it."""
        self.world.refuse(self.world.names.egress(tenant), refuses=refuses)

    @rule(tenant=st.sampled_from(TENANTS), missing=st.booleans())
    def hide(self, tenant: str, *, missing: bool) -> None:
        """A topic goes away."""
        self.world.hide(self.world.names.egress(tenant), missing=missing)

    def teardown(self) -> None:
        """In the end every job has had its one fate."""
        try:
            violations = verdict(self.world, TENANTS)
        finally:
            self.stack.close()
        assert not violations


def test_any_history_of_a_world() -> None:
    """Whatever happens to processes, broker and clocks, in whatever order, each job ends once."""
    scale = max(1, settings.default.max_examples // 100) if settings.default else 1
    run_state_machine_as_test(
        WorldMachine,
        settings=settings(
            max_examples=60 * scale,
            stateful_step_count=30,
            deadline=None,
            report_multiple_bugs=False,
        ),
    )
