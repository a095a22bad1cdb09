"""A standby alone: it follows, hands over what it has, and fails without taking anybody along."""

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog

from streamsched.core import state
from streamsched.core.replay import Replay
from streamsched.core.store import JOBS, META, Row, Store
from streamsched.engine import follower as module
from streamsched.engine.changelog import ChangelogError, Stretch
from streamsched.engine.cluster import Cluster
from streamsched.engine.follower import Follower, FollowerPhase
from streamsched.engine.metrics import Metrics
from streamsched.engine.own_state import OwnState
from streamsched.engine.reader import StartError
from streamsched.engine.runner import Runner
from streamsched.engine.runners import PartitionRunners
from streamsched.engine.stores import RocksStores
from streamsched.settings import Settings
from streamsched.store.errors import StoreClosed, StoreLocked
from streamsched.store.rocks import RocksStore
from tests.property.model import dump

RECORDS_PER_READ = 7
SECONDS_MAX = 30.0
RETENTION_MS = 3_600_000
NOW_MS = 1_800_000_000_000
T = TypeVar("T")


class Log:
    """A changelog, and how reading it fails at the moment."""

    def __init__(self) -> None:
        """Empty, and well."""
        self.records: list[Row] = []
        self.fault = ""
        self.readers = 0
        self.read_from: list[int] = []

    def job(self, number: int, due_ms: int = 1_000) -> None:
        """Commit one job, with the position after it."""
        row = state.encode_job(due_ms, number, 0, 0, number, 0, None, [], b"payload")
        self.records.append((b"acme\x00%d" % number, row))
        position = state.Position(number + 1, NOW_MS, "jobs")
        self.records.append((state.POSITION_KEY, state.encode_position(position)))

    def gone(self, number: int) -> None:
        """Commit that the job left."""
        self.records.append((b"acme\x00%d" % number, None))


class Source:
    """One reader of the log."""

    def __init__(self, log: Log) -> None:
        """At no position yet."""
        self._log = log
        self._at = 0
        log.readers += 1

    def bounds(self) -> tuple[int, int]:
        """From the first record to the last."""
        self._refuse()
        return 0, len(self._log.records)

    def seek(self, offset: int) -> None:
        """Go on from there."""
        self._at = offset
        self._log.read_from.append(offset)

    def read(self) -> Stretch | None:
        """A few records, or none."""
        self._refuse()
        records = self._log.records[self._at : self._at + RECORDS_PER_READ]
        if not records:
            time.sleep(0.001)
            return None
        self._at += len(records)
        return Stretch(records, self._at)

    def close(self) -> None:
        """One reader fewer."""
        self._log.readers -= 1

    def _refuse(self) -> None:
        if self._log.fault:
            raise ChangelogError(self._log.fault)


class World:
    """What a follower touches: a log, a disk, a clock. Passes for `Shared`."""

    def __init__(self, folder: Path) -> None:
        """An empty log and an empty disk."""
        self.log = Log()
        self.now_ms = NOW_MS
        self.metrics = Metrics()
        self.settings = Settings(data_dir=folder)
        self.stores = RocksStores(self.settings)
        self.cluster = Cluster(1, "jobs", "changelog", "settings", RETENTION_MS)
        self.threads = self
        self.ingress = self
        self.monotonic = time.monotonic
        self.looks: list[bool | StartError] = []
        """What is told of our topics, one look after the other; then that they are the same."""

    async def look_at_topics(self) -> bool:
        """See `TopicWatch.look`."""
        told = self.looks.pop(0) if self.looks else True
        if isinstance(told, StartError):
            raise told
        return told

    async def following(self, function: Callable[..., T], *arguments: object) -> T:
        """In a thread, as it really is."""
        return await asyncio.to_thread(function, *arguments)

    reading = following

    def owns(self, partition: int, generation: int) -> bool:
        """Always."""
        return (partition, generation) == (0, 1)

    def open_changelog(self, partition: int) -> Source:
        """A reader of the only partition."""
        assert partition == 0
        return Source(self.log)

    def clock_ms(self) -> int:
        """The wall clock, which a test sets."""
        return self.now_ms

    def follower(self) -> Follower:
        """One that is not started."""
        shared: Any = self
        return Follower(shared, 0)

    def failures(self) -> float:
        """How often a standby failed."""
        found = self.metrics.registry.get_sample_value("streamsched_standby_failures_total")
        assert found is not None
        return found

    def expected(self, tmp_path: Path) -> dict[str, dict[bytes, bytes]]:
        """The rows of a store that has read the whole log at once."""
        store = RocksStore(tmp_path / "expected")
        replay = Replay(store, "changelog")
        replay.apply(self.log.records, len(self.log.records))
        replay.finish()
        rows = dump(store)
        store.close()
        return rows


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Twenty jobs in the log; what goes wrong is tried again at once."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(module, "AHEAD_LOOK_SECONDS", 0.001)
    made = World(tmp_path / "data")
    for number in range(20):
        made.log.job(number)
    return made


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(SECONDS_MAX):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine."""
    return asyncio.run(work)


def current(follower: Follower) -> bool:
    """Whether it follows and has nothing left to read."""
    return follower.phase is FollowerPhase.FOLLOWING and follower.lag_records == 0


def offset_of(follower: Follower) -> int:
    """How far its store has come in the log; 0 where none is open or it is not loaded."""
    store = follower._store
    value = None if store is None else store.get(META, state.CHANGELOG_KEY)
    return 0 if value is None else state.decode_changelog_offset(value)[0]


def without_current(rows: dict[str, dict[bytes, bytes]]) -> dict[str, dict[bytes, bytes]]:
    """Rows without the moment at which they were as new as the log."""
    return {f: {k: v for k, v in r.items() if k != state.CURRENT_KEY} for f, r in rows.items()}


def test_it_loads_follows_and_hands_over(world: World, tmp_path: Path) -> None:
    """What it hands over, open, is what a rebuild would make of the log as far as it was read."""

    async def work() -> None:
        follower = world.follower()
        follower.start()
        await until(lambda: current(follower))
        for number in range(20, 30):
            world.log.job(number)
            world.log.gone(number - 15)
        await until(lambda: offset_of(follower) == len(world.log.records))
        store = await follower.hand_over()
        assert store is not None
        assert without_current(dump(store)) == world.expected(tmp_path)
        store.close()
        assert world.log.readers == 0
        assert follower.phase is FollowerPhase.STOPPED
        await follower.stop()

    run(work())


def test_a_folder_that_was_left_is_gone_on_from(world: World) -> None:
    """Stopped and started again, it reads from where it was."""

    async def work() -> None:
        for _ in range(2):
            follower = world.follower()
            follower.start()
            await until(lambda: current(follower))  # noqa: B023 - awaited right here
            await follower.stop()
            assert world.log.readers == 0
            RocksStore(world.stores.place(0)).close()

    run(work())
    assert world.log.read_from == [0, len(world.log.records)]


def test_half_a_load_is_not_handed_over(world: World) -> None:
    """What was not read to the end once is of no use, and its folder is free for the runner."""

    async def work() -> None:
        follower = world.follower()
        follower.start()
        await until(lambda: follower.phase is FollowerPhase.LOADING)
        world.log.records.extend(world.log.records * 2_000)
        assert await follower.hand_over() is None
        store = RocksStore(world.stores.place(0))
        assert Replay(store, "changelog").next_offset == 0
        store.close()

    run(work())


def test_a_broker_that_is_away_is_tried_again(world: World) -> None:
    """The reason is shown and counted, and gone once it works again; nothing is read twice."""

    async def work() -> None:
        follower = world.follower()
        follower.start()
        await until(lambda: current(follower))
        world.log.fault = "no answer"
        await until(lambda: follower.phase is FollowerPhase.FAILED)
        assert "no answer" in follower.description()
        assert follower.lag_records is None
        await until(lambda: world.failures() > 2)
        world.log.fault = ""
        world.log.job(77)
        await until(lambda: offset_of(follower) == len(world.log.records))
        await until(lambda: current(follower))
        assert "no answer" not in follower.description()
        await follower.stop()
        assert world.log.readers == 0

    run(work())
    assert set(world.log.read_from) == {0, 40}


def test_an_unforeseen_error_stays_with_the_standby(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is raised, the follower goes on, and stops when it is told to."""

    async def work() -> None:
        follower = world.follower()
        follower.start()
        await until(lambda: current(follower))
        monkeypatch.setattr(Source, "read", lambda _self: 1 / 0)
        await until(lambda: world.failures() > 1)
        assert "division" in follower.fault
        await follower.stop()

    run(work())


def test_a_damaged_store_is_made_anew(world: World, tmp_path: Path) -> None:
    """It is removed and loaded from the log."""
    store = world.stores.open(0)
    store.write([(JOBS, b"ghost", b"\x01")])
    store.close()
    (Path(world.stores.place(0)) / "CURRENT").write_bytes(b"garbage")

    async def work() -> None:
        follower = world.follower()
        follower.start()
        await until(lambda: current(follower))
        assert world.failures() == 1
        store = await follower.hand_over()
        assert store is not None
        assert without_current(dump(store)) == world.expected(tmp_path)
        store.close()

    run(work())


def left_behind(world: World, next_offset: int, topic_id: str = "changelog") -> None:
    """A store on disk that has come to `next_offset`."""
    store = world.stores.open(0)
    replay = Replay(store, topic_id)
    replay.apply(world.log.records[:next_offset], next_offset)
    replay.finish()
    store.close()


def read_from(world: World) -> int:
    """The offset that a follower of what lies on the disk begins at, once it is current."""

    async def work() -> None:
        follower = world.follower()
        follower.start()
        await until(lambda: current(follower))
        await follower.stop()

    run(work())
    [offset] = world.log.read_from
    return offset


def test_state_of_another_history_is_made_anew(world: World) -> None:
    """A store that is ahead of the log, and stays so, is of no use."""
    left_behind(world, 40)
    del world.log.records[30:]
    assert read_from(world) == 0


def test_state_ahead_for_a_moment_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log may show a commit a moment later than its owner's store."""
    left_behind(world, 40)
    ends = iter([39, 39, 39])
    monkeypatch.setattr(Source, "bounds", lambda _self: (0, next(ends, 40)))
    assert read_from(world) == 40
    assert next(ends, None) is None


@pytest.mark.parametrize(
    ("age_ms", "left", "offset"),
    [(RETENTION_MS // 2, 4, 36), (RETENTION_MS // 2 + 1, 4, 0), (RETENTION_MS * 9, 1, 39)],
    ids=["young enough", "too old", "nothing was missed"],
)
def test_state_that_may_lack_tombstones_is_made_anew(
    world: World, age_ms: int, left: int, offset: int
) -> None:
    """Older than half of the retention of tombstones, unless the log has nothing new."""
    left_behind(world, 40 - left)
    world.now_ms = NOW_MS + age_ms
    assert read_from(world) == offset


def test_state_that_was_followed_does_not_age(world: World) -> None:
    """Where nothing happens for hours, a standby stays as good as new."""

    async def work() -> None:
        follower = world.follower()
        world.now_ms = NOW_MS + RETENTION_MS * 9
        follower.start()
        await until(lambda: current(follower))
        await follower.stop()

    run(work())
    world.log.read_from.clear()
    for number in range(50, 60):
        world.log.job(number)
    world.now_ms += RETENTION_MS // 2
    assert read_from(world) == 40
    world.log.read_from.clear()
    for number in range(60, 70):
        world.log.job(number)
    world.now_ms += RETENTION_MS
    assert read_from(world) == 0


def test_a_standby_that_fell_far_behind_is_made_anew(world: World) -> None:
    """Frozen for longer than tombstones are sure to stay, it does not trust what it has."""

    async def work() -> None:
        follower = world.follower()
        follower.start()
        await until(lambda: current(follower))
        world.now_ms += RETENTION_MS // 2
        world.log.job(50)
        await until(lambda: offset_of(follower) == len(world.log.records))
        await until(lambda: current(follower))
        assert world.failures() == 0
        world.now_ms += RETENTION_MS // 2 + 1
        await until(lambda: world.failures() == 1)
        await until(lambda: current(follower))
        await follower.stop()

    run(work())
    assert world.log.read_from == [0, 0]


def test_a_recreated_changelog_is_refused(world: World) -> None:
    """State of another topic is neither used nor removed, and the reason is shown."""
    left_behind(world, 40, "the old one")

    async def work() -> None:
        follower = world.follower()
        follower.start()
        await until(lambda: world.failures() > 1)
        assert "made anew" in follower.fault
        await follower.stop()

    run(work())
    store = world.stores.open(0)
    [rows] = store.stretches(JOBS, 100)
    assert len(rows) == 20
    store.close()
    with pytest.raises(StoreClosed):
        store.get(JOBS, b"")


def await_faults(world: World, words: str) -> None:
    """Follow until it has failed twice for a reason with these words."""

    async def work() -> None:
        follower = world.follower()
        follower.start()
        await until(lambda: world.failures() > 1)
        assert words in follower.fault
        await follower.stop()

    run(work())


def pending(world: World) -> int:
    """The jobs in the store on disk."""
    store = world.stores.open(0)
    stretches = list(store.stretches(JOBS, 100))
    store.close()
    return sum(map(len, stretches))


def test_a_changelog_made_anew_meanwhile_rebuilds_no_standby(world: World) -> None:
    """A store that is ahead of another log keeps its jobs."""
    left_behind(world, 40)
    world.log.records.clear()
    world.looks = [StartError("made anew")] * 10_000
    await_faults(world, "made anew")
    assert pending(world) == 20


def test_a_standby_is_not_rebuilt_before_the_topic_is_known(world: World) -> None:
    """Where no broker tells of the topic it is tried again, and rebuilt once one does."""
    left_behind(world, 40)
    del world.log.records[30:]
    world.looks = [False] * 2
    assert read_from(world) == 0
    assert world.failures() == 2


def test_a_fit_standby_goes_on_though_nobody_tells_of_the_topic(world: World) -> None:
    """State that fits the log is followed even if no broker tells of the topic."""
    left_behind(world, 36)
    world.looks = [False]
    assert read_from(world) == 36
    assert not world.looks
    assert world.failures() == 0


def promoted(world: World, change: Callable[[World], None]) -> tuple[Store, int, bool]:
    """Promote a standby that was current before `change`.

    The runner's store, the offset it was read on from, and whether all of the log was read.
    """

    async def work() -> tuple[Store, int, bool]:
        follower = world.follower()
        follower.start()
        await until(lambda: current(follower))
        await follower._end()
        world.log.read_from.clear()
        change(world)
        shared: Any = world
        store = await OwnState(shared, 0, follower).recover(lambda: True)
        gauge = world.metrics.registry.get_sample_value(
            "streamsched_recovery_records", {"partition": "0"}
        )
        return store, world.log.read_from[-1], gauge == len(world.log.records)

    return run(work())


def tail(world: World) -> None:
    """The owner commits a little more before it is gone."""
    for number in range(20, 25):
        world.log.job(number)


def much_later(world: World) -> None:
    """The tail is read so late that tombstones in it may be gone."""
    tail(world)
    world.now_ms += RETENTION_MS


def truncated(world: World) -> None:
    """The log has lost records that the standby has."""
    del world.log.records[-7:]


@pytest.mark.parametrize(
    ("change", "offset"),
    [(tail, 40), (much_later, 0), (truncated, 0)],
    ids=["tail", "old", "ahead"],
)
def test_promotion_reads_the_tail_after_all_checks(
    world: World, tmp_path: Path, change: Callable[[World], None], offset: int
) -> None:
    """The runner goes on where the standby was, unless its state is of no use by then."""
    store, read_from, was_whole = promoted(world, change)
    assert read_from == offset
    assert was_whole == (offset == 0)
    assert without_current(dump(store)) == world.expected(tmp_path)
    store.close()


def test_log_that_is_read_longer_than_tombstones_last_is_refused(world: World) -> None:
    """Jobs that have left while it was read could be back; nothing is left open."""
    tail(world)
    ticks = itertools.count(0, RETENTION_MS // 1_000)
    world.monotonic = lambda: float(next(ticks))
    shared: Any = world
    with pytest.raises(StartError, match="cannot be read in time"):
        run(OwnState(shared, 0, None).recover(lambda: True))
    RocksStore(world.stores.place(0)).close()


def test_a_store_that_is_still_open_is_told_of_once_and_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former owner in this process may need a moment; the log says that it was needed."""
    openings = [world.stores.open] * 4

    def open_at_last(number: int) -> Store:
        opening = openings.pop()
        if openings:
            raise StoreLocked("in use")
        return opening(number)

    monkeypatch.setattr(world.stores, "open", open_at_last)
    shared: Any = world
    with structlog.testing.capture_logs() as logs:
        run(OwnState(shared, 0, None).recover(lambda: True)).close()
    told = [line for line in logs if line["event"] == "store is locked, trying again"]
    assert [line["partition"] for line in told] == [0]
    assert not openings


def test_promotion_refuses_a_recreated_changelog(world: World) -> None:
    """A standby of another topic is no better than a folder of another topic."""

    def made_anew(changed: World) -> None:
        changed.cluster = Cluster(1, "jobs", "another", "settings", RETENTION_MS)

    with pytest.raises(StartError, match="made anew"):
        promoted(world, made_anew)


@pytest.mark.parametrize("is_known", [True, False], ids=["made anew", "nobody tells"])
def test_promotion_rebuilds_nothing_from_a_log_that_may_be_another(
    world: World,
    is_known: bool,  # noqa: FBT001
) -> None:
    """The store keeps its jobs where the changelog was made anew since the start."""

    def made_anew(changed: World) -> None:
        changed.log.records.clear()
        changed.looks = [StartError("made anew") if is_known else False]

    error, words = (StartError, "made anew") if is_known else (ChangelogError, "does not tell")
    with pytest.raises(error, match=words):
        promoted(world, made_anew)


def test_promotion_in_the_middle_of_loading_begins_anew(world: World, tmp_path: Path) -> None:
    """What was half loaded is loaded by the runner, and nothing keeps its folder locked."""

    async def work() -> Store:
        follower = world.follower()
        follower.start()
        world.log.records.extend(world.log.records * 500)
        await until(lambda: follower.phase is FollowerPhase.LOADING)
        shared: Any = world
        return await OwnState(shared, 0, follower).recover(lambda: True)

    store = run(work())
    assert without_current(dump(store)) == world.expected(tmp_path)
    store.close()


def test_a_runner_that_is_stopped_before_it_takes_over_stops_the_standby(world: World) -> None:
    """Nobody is left with the store."""

    async def work() -> None:
        follower = world.follower()
        follower.start()
        await until(lambda: current(follower))
        shared: Any = world
        await Runner(shared, 0, 1, follower).stop(1.0)
        RocksStore(world.stores.place(0)).close()
        assert world.log.readers == 0

    run(work())


def test_a_stop_that_nobody_waits_for_lets_go_of_the_standbys_store(world: World) -> None:
    """The frame abandons a revoke that takes too long; the next owner can open the store."""

    async def work() -> None:
        shared: Any = world
        follower = world.follower()
        follower.start()
        await until(lambda: current(follower))
        stopping = asyncio.create_task(Runner(shared, 0, 1, follower).stop(SECONDS_MAX))
        await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.wait({stopping})
        await until(lambda: follower.phase is FollowerPhase.STOPPED)
        world.stores.open(0).close()

    run(work())


def test_followers_outlive_rebalances_and_end_with_their_assignment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same one goes on, is given to the runner, or is closed with its folder kept."""
    nothing: frozenset[int] = frozenset()
    this = frozenset({0})
    monkeypatch.setattr(Runner, "start", lambda _self: None)

    async def work() -> None:
        shared: Any = world
        owner = PartitionRunners(world.settings, shared)
        owner._shared = shared
        await owner.on_assigned(nothing, this, 1)
        first = owner.followers[0]
        await until(lambda: current(first))
        await owner.on_revoked(nothing)
        await owner.on_assigned(nothing, this, 2)
        assert owner.followers == {0: first}
        assert current(first)
        await owner.on_assigned(nothing, nothing, 3)
        assert owner.followers == {}
        await until(lambda: first.phase is FollowerPhase.STOPPED and not owner._stopping_followers)
        assert (Path(world.stores.place(0)) / "CURRENT").exists()
        await owner.on_assigned(nothing, this, 4)
        second = owner.followers[0]
        await until(lambda: current(second))
        # An assignor that names a partition twice means the owner.
        await owner.on_assigned(this, this, 5)
        assert owner.followers == {}
        assert owner.runners[0].state.follower is second
        await owner.on_revoked(this)
        assert second.phase is FollowerPhase.STOPPED
        RocksStore(world.stores.place(0)).close()

    run(work())
    assert world.log.read_from == [0, 40]
