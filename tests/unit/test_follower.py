"""A standby alone: it follows, hands over what it has, and fails without taking anybody along."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from streamsched.core import state
from streamsched.core.replay import Replay
from streamsched.core.store import JOBS, META, Row
from streamsched.engine import follower as module
from streamsched.engine.changelog import ChangelogError, Stretch
from streamsched.engine.cluster import Cluster
from streamsched.engine.follower import Follower, FollowerPhase
from streamsched.engine.metrics import Metrics
from streamsched.engine.stores import RocksStores
from streamsched.settings import Settings
from streamsched.store.errors import StoreClosed
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
        self.monotonic = time.monotonic

    async def following(self, function: Callable[..., T], *arguments: object) -> T:
        """In a thread, as it really is."""
        return await asyncio.to_thread(function, *arguments)

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
