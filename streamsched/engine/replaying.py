"""Bringing a partition's store up to the end of its changelog, before any cycle."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from streamsched.core.replay import Replay
from streamsched.core.store import Store
from streamsched.engine.changelog import ChangelogError, ChangelogSource

SILENCE_SECONDS_MAX: Final = 30.0
PROGRESS_SECONDS: Final = 0.25
MARKERS_MAX: Final = 1


@dataclass(slots=True)
class ReplayResult:
    """What a replay did."""

    records: int
    seconds: float
    unfit: str = ""
    """Why the local state is of no use, if it is not; then nothing was read."""


def replay_changelog(
    open_changelog: Callable[[int], ChangelogSource],
    partition: int,
    store: Store,
    topic_id: str,
    *,
    stale: str = "",
    is_wanted: Callable[[], bool],
    on_progress: Callable[[int], None],
    monotonic: Callable[[], float] = time.monotonic,
) -> ReplayResult:
    """Apply what the store lacks of its changelog; blocking, for a thread of its own.

    Must come after the fencing of the former owner. `on_progress` is told the records left.
    `stale` says why the state may have missed tombstones, if it may: then it is only of use where
    there is nothing to read.
    Raises `ChangelogError`, `StoreError` and `UnknownVersion`.
    """
    started = monotonic()
    source = open_changelog(partition)
    try:
        low, end = source.bounds()
        replay = Replay(store, topic_id)
        unfit = _unfit(replay, end, stale)
        if unfit:
            return ReplayResult(0, monotonic() - started, unfit)
        start = max(replay.next_offset, low)
        records = 0
        if start < end:
            source.seek(start)
            on_progress(end - start)
            records = _read(source, replay, end, is_wanted, on_progress, monotonic)
        if is_wanted():
            replay.apply([], end)
            replay.finish(is_wanted)
    finally:
        source.close()
    on_progress(0)
    return ReplayResult(records, monotonic() - started)


def _unfit(replay: Replay, end: int, stale: str) -> str:
    if replay.next_offset > end:
        return "it is ahead of the changelog, so it is of another history"
    # A single offset holds no record, but the marker of the transaction that wrote the state.
    if stale and not replay.is_rebuild and end - replay.next_offset > MARKERS_MAX:
        return stale
    return ""


def _read(
    source: ChangelogSource,
    replay: Replay,
    end: int,
    is_wanted: Callable[[], bool],
    on_progress: Callable[[int], None],
    monotonic: Callable[[], float],
) -> int:
    """Read to `end`. A log may close with markers, be empty, or be compacted to nothing."""
    records = 0
    heard = told = monotonic()
    while is_wanted():
        stretch = source.read()
        now = monotonic()
        if stretch is None:
            if now - heard > SILENCE_SECONDS_MAX:
                raise ChangelogError(f"no answer from the broker for {SILENCE_SECONDS_MAX:.0f} s")
            continue
        heard = now
        if stretch.records:
            replay.apply(stretch.records, stretch.next_offset)
            records += len(stretch.records)
        if stretch.next_offset >= end:
            return records
        if now - told > PROGRESS_SECONDS:
            told = now
            on_progress(max(0, end - replay.next_offset))
    return records
