"""Any sequence of what can happen to a partition, against the model, on both stores."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from streamsched.core.destinations import Problem
from streamsched.core.replay import Replay
from streamsched.core.store import DUE, JOBS, READY, Store
from streamsched.store.memory import MemoryStore
from streamsched.store.rocks import RocksStore
from tests.property.model import CheckedDriver, dump, rows_of
from tests.property.strategies import use_small_limits

PARTITIONS = 2
TENANTS = st.sampled_from(["a", "b", "c", "a-"])
IDS = st.sampled_from([f"{number}" for number in range(16)])
TOPICS = st.sampled_from(["streamsched.egress.a", "streamsched.egress.b", "shared"])
MOMENTS = st.one_of(st.sampled_from([-3_000, -1, 0, 1, 1_000]), st.integers(-2_000, 6_000))
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "rate": st.sampled_from(["1/s", "10/s", "3/2s", "1/333ms", "unlimited", "1/20s"]),
        "burst": st.integers(1, 4),
        "paused": st.booleans(),
        "egress_topic": st.just("shared"),
        "events": st.just("all"),
    },
)


class DriverMachine(RuleBasedStateMachine):
    """Submits, cancels, settings, broken topics, failures and a clock that also goes back."""

    def make_store(self, number: int) -> Store:
        """A new store."""
        del number
        return MemoryStore()

    def __init__(self) -> None:
        super().__init__()
        self.driver = CheckedDriver(partitions=PARTITIONS, store=self.make_store)
        self.standbys: list[Store | None] = [None] * PARTITIONS

    @rule(
        tenant=TENANTS,
        job_ids=st.lists(IDS, min_size=1, max_size=12),
        due=MOMENTS,
        expires=st.none() | MOMENTS,
        key=st.sampled_from([None, "k1", "k2"]),
        partition=st.sampled_from([None, None, 0, 1]),
        size=st.sampled_from([1, 1, 150]),
    )
    def submit(
        self,
        tenant: str,
        job_ids: list[str],
        due: int,
        expires: int | None,
        key: str | None,
        partition: int | None,
        size: int,
    ) -> None:
        """A few jobs of one tenant, some under ids that are pending, some misplaced."""
        driver = self.driver
        for index, job_id in enumerate(job_ids):
            driver.submit_to(
                partition,
                tenant,
                job_id,
                due_at_ms=driver.now_ms + due + index % 3,
                expires_at_ms=None if expires is None else driver.now_ms + expires,
                key=key,
                payload=b"x" * size,
            )

    @rule(tenant=TENANTS, job_id=IDS)
    def cancel(self, tenant: str, job_id: str) -> None:
        """A cancel, of a pending job or not."""
        self.driver.cancel(tenant, job_id)

    @rule(tenant=st.one_of(TENANTS, st.just("*")), fields=st.none() | SETTINGS)
    def change(self, tenant: str, fields: dict[str, Any] | None) -> None:
        """A valid settings record or a tombstone."""
        self.driver.change(tenant, fields)

    @rule(tenant=TENANTS)
    def spoil(self, tenant: str) -> None:
        """An invalid settings record changes nothing where a valid one is known."""
        if tenant in self.driver.settings:
            assert self.driver.set_tenant(tenant, rate="0/s")

    @rule(topic=TOPICS, problem=st.sampled_from([Problem.MISSING, Problem.FORBIDDEN]))
    def break_topic(self, topic: str, problem: Problem) -> None:
        """A topic that cannot be written to."""
        self.driver.broken.add(topic)
        self.driver.directory.break_topic(topic, problem)

    @rule(topic=TOPICS, partitions=st.integers(1, 3))
    def mend_topic(self, topic: str, partitions: int) -> None:
        """A topic that can be written to, perhaps with several partitions."""
        self.driver.broken.discard(topic)
        self.driver.directory.set_topic(topic, partitions=partitions, max_message_bytes=9_999)

    @rule(milliseconds=st.sampled_from([0, 1, 10, 250, 999, 1_000, 2_500, 20_000]))
    def advance(self, milliseconds: int) -> None:
        """Time passes, and every partition wakes when it asked to."""
        driver = self.driver
        driver.advance(milliseconds)
        driver.check_rest()

    @rule(milliseconds=st.sampled_from([5, 1_500, 10_000]), partition=st.sampled_from([0, 1]))
    def stall(self, milliseconds: int, partition: int) -> None:
        """Time passes without a cycle, then comes one alone."""
        self.driver.now_ms += milliseconds
        self.driver.run_once(partition, records_max=3)

    @rule(milliseconds=st.sampled_from([1, 900, 5_000]))
    def step_back(self, milliseconds: int) -> None:
        """The wall clock goes back."""
        self.driver.now_ms -= milliseconds

    @rule(partition=st.sampled_from([0, 1]))
    def abort(self, partition: int) -> None:
        """A transaction fails: the store is as it was."""
        store = self.driver.partitions[partition].store
        before = dump(store)
        self.driver.abort_once(partition)
        assert dump(store) == before

    @rule()
    def restart(self) -> None:
        """A restart with the local state at hand."""
        self.driver.restart()

    @rule(compacted=st.booleans())
    def rebuild(self, *, compacted: bool) -> None:
        """A restart with nothing but the changelog, compacted or not."""
        driver = self.driver
        if compacted:
            driver.changelogs = [
                [(key, value) for key, value in dict(log).items() if value is not None]
                for log in driver.changelogs
            ]
            self.drop_standbys()
        old = [it.store for it in driver.partitions]
        driver.restart(from_changelog=True)
        for number, store in enumerate(old):
            store.close()
            driver.check_store(number)

    @precondition(lambda self: any(self.driver.changelogs))
    @rule()
    def take_over(self) -> None:
        """The store of an earlier owner reads the tail of the changelog and goes on."""
        driver = self.driver
        for number, it in enumerate(driver.partitions):
            store = self.standbys[number] or self.make_store(number)
            replay = Replay(store, "")
            tail = driver.changelogs[number][replay.next_offset :]
            middle = len(tail) // 2
            replay.apply(tail[:middle], replay.next_offset + middle)
            replay.apply(tail[middle:], len(driver.changelogs[number]))
            replay.finish()
            self.standbys[number] = it.store
            driver.partitions[number] = driver._open(number, PARTITIONS, store)
            driver._wake_at_ms[number] = driver.now_ms
            driver.check_store(number)

    def drop_standbys(self) -> None:
        """Forget the stores of earlier owners."""
        for store in self.standbys:
            if store is not None:
                store.close()
        self.standbys = [None] * PARTITIONS

    def teardown(self) -> None:
        """Once nothing is in the way, every job ends, and nothing is left in any index."""
        driver = self.driver
        for name in [*driver.settings]:
            driver.change(name, None)
        for topic in [*driver.broken]:
            self.mend_topic(topic, 1)
        driver.advance(60_000)
        assert not driver.held
        assert driver.accepted == set(driver.outcomes)
        for it in driver.partitions:
            for family in (JOBS, DUE, READY):
                assert rows_of(it.store, family) == {}
            it.store.close()
        self.drop_standbys()


class RocksMachine(DriverMachine):
    """The same on RocksDB."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="streamsched-"))
        self.stores = 0
        super().__init__()

    def make_store(self, number: int) -> Store:
        """A new store in a folder of its own."""
        self.stores += 1
        return RocksStore(self.folder / f"{number}-{self.stores}")

    def teardown(self) -> None:
        """As on memory; then the folders go."""
        try:
            super().teardown()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(params=["small limits", "real limits"])
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of a cycle as they are, and so small that each of them is hit."""
    if request.param == "small limits":
        use_small_limits(monkeypatch)


def run(machine: type[RuleBasedStateMachine], examples: int) -> None:
    """Run a machine, more often where the profile asks for more."""
    scale = max(1, settings.default.max_examples // 100) if settings.default else 1
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples * scale,
            stateful_step_count=40,
            deadline=None,
            report_multiple_bugs=False,
        ),
    )


def test_any_history_in_memory(limits: None) -> None:
    """Whatever happens, each accepted job ends exactly once, in order, in time and at its rate."""
    run(DriverMachine, 60)


def test_any_history_on_rocksdb(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds on the store that production runs on."""
    use_small_limits(monkeypatch)
    run(RocksMachine, 4)
