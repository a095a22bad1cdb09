"""The local state of one partition while its runner lives: from the disk, or from a standby."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from streamsched.core.store import Store
from streamsched.engine.changelog import confirm_log
from streamsched.engine.follower import Follower
from streamsched.engine.reader import StartError
from streamsched.engine.replaying import ReplayResult, replay_changelog
from streamsched.engine.shared import Shared
from streamsched.engine.state_checks import reason_to_rebuild
from streamsched.store.errors import StoreCorrupt, StoreLocked

PROGRESS_LOG_SECONDS: Final = 2.0
LOCK_LOOKS_MAX: Final = 20
LOCK_LOOK_SECONDS: Final = 0.1

log = structlog.get_logger()


class OwnState:
    """Opens the store, brings it up to the changelog's end, and lets go of it again."""

    def __init__(self, shared: Shared, number: int, follower: Follower | None) -> None:
        """`follower` is the standby whose store becomes the runner's, if there was one."""
        self.records_left = 0
        """Changelog records that are still to be read."""
        self.follower = follower
        self._shared = shared
        self._number = number
        self._store: Store | None = None
        self._logged_at = -PROGRESS_LOG_SECONDS

    async def recover(self, is_wanted: Callable[[], bool]) -> Store:
        """The store, with all that was committed; must come after the fence.

        Raises what opening a store and reading a changelog raise, and `StartError` where that takes
        longer than tombstones last, or the changelog is another one by now.
        """
        shared = self._shared
        store = await self._standby_store()
        was_standby = store is not None
        if store is None:
            store = await self._open()
        unfit = ""
        for _ in range(2):
            self._store = store
            stale = reason_to_rebuild(
                store, shared.stores.place(self._number), shared.cluster, shared.clock_ms()
            )
            result = await shared.threads.reading(
                partial(
                    replay_changelog,
                    shared.open_changelog,
                    self._number,
                    store,
                    shared.cluster.changelog_topic_id,
                    stale=stale,
                    is_wanted=is_wanted,
                    on_progress=self._note_progress,
                    monotonic=shared.monotonic,
                )
            )
            unfit = result.unfit or self._too_slow(result)
            # After the log was read, so that it is of the log that was read.
            await confirm_log(shared.look_at_topics, unfit)
            if not unfit:
                break
            log.warning("local state is rebuilt", partition=self._number, reason=unfit)
            store.close()
            await self.destroy()
            store = await self._open()
        else:
            store.close()
            raise StartError(
                f"the changelog of partition {self._number} cannot be read in time ({unfit}): "
                "raise delete.retention.ms of the changelog topic, or add schedulers"
            )
        log.info(
            "partition recovered",
            partition=self._number,
            records=result.records,
            seconds=round(result.seconds, 3),
            was_standby=was_standby,
        )
        shared.metrics.recovery_records.labels(str(self._number)).set(result.records)
        return store

    def _too_slow(self, result: ReplayResult) -> str:
        """Why what was read may lack tombstones: the log drops them while it is being read."""
        limit_ms = self._shared.cluster.state_age_ms_max
        if not result.records or result.seconds * 1_000 <= limit_ms:
            return ""
        return (
            f"reading took {result.seconds:.0f} s, and tombstones may be gone after "
            f"{limit_ms / 1_000:.0f} s"
        )

    async def destroy(self) -> None:
        """Remove what is on disk; it must be closed."""
        await self._shared.threads.reading(self._shared.stores.destroy, self._number)

    def close(self) -> None:
        """Close the store; harmless when none is open."""
        if self._store is not None:
            self._store.close()
            self._store = None

    async def _standby_store(self) -> Store | None:
        """What the former standby of the partition has read so far, if there was one."""
        if self.follower is None:
            return None
        self._store = await self.follower.hand_over()
        self.follower = None
        return self._store

    async def _open(self) -> Store:
        """Open the store; the former owner in this process may need a moment to let go."""
        shared = self._shared
        is_told = False
        for _ in range(LOCK_LOOKS_MAX):
            try:
                return await shared.threads.reading(shared.stores.open, self._number)
            except StoreLocked:
                if not is_told:
                    is_told = True
                    log.info("store is locked, trying again", partition=self._number)
                await asyncio.sleep(LOCK_LOOK_SECONDS)
            except StoreCorrupt as error:
                log.warning("local state is rebuilt", partition=self._number, reason=str(error))
                await self.destroy()
        return await shared.threads.reading(shared.stores.open, self._number)

    def _note_progress(self, records_left: int) -> None:
        self.records_left = records_left
        self._shared.metrics.replay_records_left.labels(str(self._number)).set(records_left)
        now = self._shared.monotonic()
        if records_left and now - self._logged_at >= PROGRESS_LOG_SECONDS:
            self._logged_at = now
            log.info("reading the changelog", partition=self._number, records_left=records_left)
