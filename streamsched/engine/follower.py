"""A hot standby: the store of a partition that another process owns, kept close to its changelog.

A follower reads what was committed, applies it to the local store and has nothing to say: it
fences nobody and writes nothing to Kafka. When the partition becomes this process's, its runner
takes the store over, fences the former owner, and reads the little that is left. Whatever goes
wrong here is told and tried again; it never touches the partitions that this process owns.
"""

import asyncio
from enum import StrEnum
from typing import Final

import structlog

from streamsched.core import state
from streamsched.core.replay import Replay
from streamsched.core.store import META, Store
from streamsched.engine.changelog import ChangelogError, ChangelogSource, confirm_log
from streamsched.engine.reader import StartError
from streamsched.engine.replaying import MARKERS_MAX
from streamsched.engine.shared import Shared
from streamsched.engine.state_checks import reason_to_rebuild
from streamsched.store.errors import StoreCorrupt, StoreError

RETRY_SECONDS: Final = 5.0
AHEAD_LOOKS_MAX: Final = 20
AHEAD_LOOK_SECONDS: Final = 0.5
LAG_SECONDS: Final = 1.0
"""How often the end of the log is asked for."""

REST_RATIO: Final = 0.5
"""A follower rests half as long as it has worked, so that it leaves the interpreter to others."""

REST_SECONDS_MAX: Final = 1.0
"""A process that was suspended has not worked for so long."""

CURRENT_SECONDS: Final = 60.0
"""How often it is noted that the state was as far as the log: it does not age meanwhile."""

log = structlog.get_logger()


class FollowerPhase(StrEnum):
    """What a follower is doing."""

    OPENING = "opening"
    LOADING = "loading"
    FOLLOWING = "following"
    FAILED = "failed"
    STOPPED = "stopped"


class Follower:
    """One partition that this process is a standby for, from `start` to `hand_over` or `stop`."""

    def __init__(self, shared: Shared, number: int) -> None:
        """Nothing happens before `start`."""
        self.number = number
        self.phase = FollowerPhase.OPENING
        self.fault = ""
        """Why it failed last, while it has not recovered from that."""
        self.lag_records: int | None = None
        """Offsets between the state and the end of the log; `None` where that is not known."""
        self._shared = shared
        self._stopping = asyncio.Event()
        self._store: Store | None = None
        self._source: ChangelogSource | None = None
        self._task: asyncio.Task[None] | None = None
        self._current_noted_at = -CURRENT_SECONDS
        self._as_of_ms = 0
        """When the state was as new as the log, or when it began to be read."""

    def start(self) -> None:
        """Begin in a task of its own."""
        self._task = asyncio.create_task(self._run(), name=f"standby {self.number}")

    def description(self) -> str:
        """What it is doing, in a few words, for people."""
        lag = "" if self.lag_records is None else f", {self.lag_records} records left"
        return f"{self.phase.value}{lag}{f' ({self.fault})' if self.fault else ''}"

    def ask_to_stop(self) -> None:
        """Do not read on; returns at once."""
        self._stopping.set()

    async def hand_over(self) -> Store | None:
        """Stop, and give away the open store; `None` where there is none that is of use.

        The caller closes it. It lacks whatever was committed since the last read.
        """
        await self._end()
        if self._store is None or not _is_of_use(self._store):
            self._close_store()
            return None
        store, self._store = self._store, None
        return store

    async def stop(self) -> None:
        """Stop, and close the store; its folder stays for a later start."""
        await self._end()
        self._close_store()

    # --- life ------------------------------------------------------------------------------

    async def _end(self) -> None:
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task})
            self._task = None
        self.phase = FollowerPhase.STOPPED

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._follow()
            except (ChangelogError, StoreError, StartError, state.UnknownVersion) as error:
                await self._fail(error)
            except Exception as error:
                log.exception("standby failed unexpectedly", partition=self.number)
                await self._fail(error)
            finally:
                await self._close_source()

    async def _fail(self, error: Exception) -> None:
        """Say so, and begin again later with a store opened anew."""
        self.phase = FollowerPhase.FAILED
        self.fault = str(error)
        self.lag_records = None
        self._shared.metrics.standby_failures.inc()
        log.warning("standby begins again", partition=self.number, error=self.fault)
        self._close_store()
        if isinstance(error, StoreCorrupt):
            try:
                await self._shared.threads.following(self._shared.stores.destroy, self.number)
            except StoreError as also:
                log.warning("standby cannot be removed", partition=self.number, error=str(also))
        await self._rest(RETRY_SECONDS)

    async def _follow(self) -> None:
        """From the store on disk to a state that goes along with the log."""
        shared = self._shared
        self.phase = FollowerPhase.OPENING
        store = await self._open_store()
        stale = reason_to_rebuild(
            store, shared.stores.place(self.number), shared.cluster, shared.clock_ms()
        )
        unfit = await self._unfit(store, stale)
        await confirm_log(shared.look_at_topics, unfit)
        if unfit:
            log.warning("standby is rebuilt", partition=self.number, reason=unfit)
            store = await self._open_anew()
        if self._stopping.is_set():
            return
        topic_id = shared.cluster.changelog_topic_id
        replay = await shared.threads.following(Replay, store, topic_id)
        self.phase = FollowerPhase.LOADING if replay.is_rebuild else FollowerPhase.FOLLOWING
        source = self._opened_source()
        looked_at, asked_at_ms = shared.monotonic(), shared.clock_ms()
        self._as_of_ms = asked_at_ms
        low, end = await shared.threads.following(source.bounds)
        await shared.threads.following(source.seek, max(replay.next_offset, low))
        while not self._stopping.is_set():
            began = shared.monotonic()
            await shared.threads.following(self._read_once, source, replay)
            ended = shared.monotonic()
            if ended - looked_at > LAG_SECONDS or replay.next_offset >= end:
                # Read before the end is asked for: the state is at least as new as that.
                looked_at, asked_at_ms = shared.monotonic(), shared.clock_ms()
                _, end = await shared.threads.following(source.bounds)
            self._refuse_if_late()
            self._note_lag(max(0, end - replay.next_offset))
            if replay.next_offset >= end:
                self._as_of_ms = asked_at_ms
                await self._at_end(replay, store, asked_at_ms)
            elif not self._stopping.is_set():
                await self._rest(min((ended - began) * REST_RATIO, REST_SECONDS_MAX))

    def _refuse_if_late(self) -> None:
        """Raise `StoreCorrupt` where tombstones may have gone that were not read yet.

        The state itself may have been half of their retention old at the start; this is the rest.
        """
        behind_ms = self._shared.clock_ms() - self._as_of_ms
        if behind_ms > self._shared.cluster.state_age_ms_max:
            raise StoreCorrupt(
                f"the standby of partition {self.number} is {behind_ms // 1000} s behind the "
                "changelog, so it may have missed tombstones; it is rebuilt"
            )

    def _read_once(self, source: ChangelogSource, replay: Replay) -> None:
        """In a thread: one stretch of the log, if there is one."""
        stretch = source.read()
        if stretch is not None:
            # Before it is applied: a store that was killed with ghosts in it would look fresh.
            self._refuse_if_late()
            replay.apply(stretch.records, stretch.next_offset)

    async def _at_end(self, replay: Replay, store: Store, now_ms: int) -> None:
        """Index a store that was loaded; note that the state was as new as the log at `now_ms`."""
        shared = self._shared
        if replay.is_rebuild:
            wanted = await shared.threads.following(
                replay.finish, lambda: not self._stopping.is_set()
            )
            if not wanted:
                return
            log.info("standby is loaded", partition=self.number, offset=replay.next_offset)
        self.phase = FollowerPhase.FOLLOWING
        self.fault = ""
        if shared.monotonic() - self._current_noted_at >= CURRENT_SECONDS:
            self._current_noted_at = shared.monotonic()
            row = (META, state.CURRENT_KEY, state.encode_now(now_ms))
            await shared.threads.following(store.write, [row])

    # --- what it holds open ----------------------------------------------------------------

    def _note_lag(self, records: int) -> None:
        self.lag_records = records
        self._shared.metrics.standby_lag_records.labels(str(self.number)).set(records)

    async def _open_store(self) -> Store:
        self._store = await self._shared.threads.following(self._shared.stores.open, self.number)
        return self._store

    async def _open_anew(self) -> Store:
        self._close_store()
        await self._shared.threads.following(self._shared.stores.destroy, self.number)
        return await self._open_store()

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _opened_source(self) -> ChangelogSource:
        if self._source is None:
            self._source = self._shared.open_changelog(self.number)
        return self._source

    async def _close_source(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            await self._shared.threads.following(source.close)

    async def _unfit(self, store: Store, stale: str) -> str:
        """Why the state cannot be gone on from, empty if it can.

        The owner's last commit counts before its marker is in the log, and a new leader can be
        behind for a moment, so a state that is ahead is looked at again before it is believed.
        """
        value = store.get(META, state.CHANGELOG_KEY)
        if value is None:
            return ""
        next_offset, _ = state.decode_changelog_offset(value)
        source = self._opened_source()
        for _ in range(AHEAD_LOOKS_MAX):
            _, end = await self._shared.threads.following(source.bounds)
            if next_offset <= end or self._stopping.is_set():
                return stale if end - next_offset > MARKERS_MAX else ""
            await self._rest(AHEAD_LOOK_SECONDS)
        return "it is ahead of the changelog, so it is of another history"

    async def _rest(self, seconds: float) -> None:
        """Until it is asked to stop, at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


def _is_of_use(store: Store) -> bool:
    """Whether a store has been loaded to an end, from which the log can be read on."""
    try:
        return store.get(META, state.CHANGELOG_KEY) is not None
    except StoreError:
        return False
