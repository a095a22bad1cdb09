"""A store built from the changelog, whole or from a tail, is as good as the one it stands for."""

import subprocess
import sys
from pathlib import Path

import pytest

from streamsched.core import state
from streamsched.core.replay import INDEX_ROWS, Replay
from streamsched.core.store import DUE, FAMILIES, JOBS, META, READY
from streamsched.store.memory import MemoryStore
from streamsched.store.rocks import RocksStore
from streamsched.testing import Driver, headers_of
from tests.property.model import dump

TIMES = [-9_000, -50, 0, 1, 400, 999, 1_000, 2_500, 7_000]


def history(driver: Driver, step: int) -> None:
    """A stretch of submits, replaces, cancels, expiries, throttling and a pause."""
    driver.set_tenant("slow", rate="2/s")
    driver.set_tenant("paused", paused=step % 2 == 0)
    for tenant in ("slow", "paused", "free"):
        for number, ahead in enumerate(TIMES):
            driver.submit(
                tenant,
                f"{number if number % 2 else (step, number)}",
                due_at_ms=driver.now_ms + ahead,
                expires_at_ms=driver.now_ms + 3_000 if number % 3 == 0 else None,
            )
        driver.cancel(tenant, "3")
    driver.advance(1_300)


def rest(driver: Driver) -> list[tuple[str, bytes | None, int]]:
    """Everything that leaves from here on: topic, source, moment."""
    first = len(driver.log)
    driver.set_tenant("paused", paused=False)
    driver.advance(60_000)
    return [
        (record.topic, headers_of(record).get("streamsched-source"), record.timestamp_ms)
        for record in driver.log[first:]
    ]


def swap(driver: Driver, store: MemoryStore) -> None:
    """Let another store take over after it has read the rest of the changelog."""
    replay = Replay(store, "")
    log = driver.changelogs[0]
    replay.apply(log[replay.next_offset :], len(log))
    replay.finish()
    driver.partitions[0] = driver._open(0, 1, store)
    driver._wake_at_ms = [driver.now_ms]


@pytest.mark.parametrize("way", ["store", "whole", "compacted", "tail", "stale tail"])
def test_every_way_back_gives_the_same_dispatches(way: str) -> None:
    """Local state, the whole changelog, a compacted one, a tail: the same jobs leave in order."""
    expected, found = Driver(), Driver()
    stale = MemoryStore()
    for step in range(4):
        history(expected, step)
        history(found, step)
        if way == "stale tail" and step == 1:
            old = found.partitions[0].store
            swap(found, stale)
            assert isinstance(old, MemoryStore)
            stale = old
        elif way == "tail":
            replay = Replay(stale, "")
            replay.apply(found.changelogs[0][replay.next_offset :], len(found.changelogs[0]))
            replay.finish()
    if way == "store":
        found.restart()
    elif way == "compacted":
        log = dict(found.changelogs[0])
        found.changelogs[0] = [(key, value) for key, value in log.items() if value is not None]
        found.restart(from_changelog=True)
    elif way == "whole":
        found.restart(from_changelog=True)
    else:
        swap(found, stale)
    # A restart forgets that jobs were waiting; both sides must, to compare to the millisecond.
    expected.restart()
    assert sorted(rest(found)) == sorted(rest(expected))
    assert not any(dump(found.partitions[0].store)[family] for family in (JOBS, DUE, READY))


def test_tombstones_remove_jobs() -> None:
    """A job that left is not there after a rebuild, nor in any count."""
    driver = Driver()
    driver.submit("acme", "a")
    driver.submit("acme", "b", due_at_ms=driver.now_ms + 60_000)
    driver.settle()
    driver.restart(from_changelog=True)
    assert driver.job("acme", "a") is None
    assert driver.job("acme", "b") is not None
    assert driver.pending("acme") == 1


def test_unfinished_rebuild_starts_again() -> None:
    """A rebuild that was cut short is wiped and begun anew."""
    driver = Driver()
    for number in range(10):
        driver.submit("acme", f"{number}", due_at_ms=driver.now_ms + 1_000)
    driver.settle()
    log = driver.changelogs[0]
    store = MemoryStore()
    Replay(store, "").apply(log[:5], 5)
    again = Replay(store, "id")
    assert again.next_offset == 0
    assert all(not dump(store)[family] for family in FAMILIES)
    again.apply(log, len(log))
    again.finish()
    again.finish()
    assert dump(store)["jobs"] == dump(driver.partitions[0].store)["jobs"]
    assert store.get(META, state.CHANGELOG_KEY) == state.encode_changelog_offset(len(log), "id")


LOAD_AND_DIE = """
import os, sys
from streamsched.core import state
from streamsched.core.replay import INDEX_ROWS, Replay
from streamsched.core.store import JOBS
from streamsched.store.rocks import RocksStore

store = RocksStore(sys.argv[1])
replay = Replay(store, "id")
row = state.encode_job(1_000, 1, 0, 0, 1, 0, None, [], b"payload")
replay.apply([(b"acme\\x00%d" % n, row) for n in range(1_000)], 1_000)
with store.cursor(JOBS, b"", b"a") as cursor:
    pass  # what was loaded so far lies in files now
if sys.argv[2] == "indexed":
    store.write = lambda batch: os._exit(0)  # the last step of all, which makes the rows count
    replay.finish()
os._exit(0)
"""
"""A rebuild in a process that is gone, without any farewell, in the middle of it or at its end."""


@pytest.mark.parametrize("moment", ["loaded", "indexed"])
def test_killed_rebuild_is_taken_for_an_empty_store(tmp_path: Path, moment: str) -> None:
    """After a kill in a rebuild nothing of it counts, though rows of it lie on the disk."""
    path = tmp_path / "store"
    subprocess.run([sys.executable, "-c", LOAD_AND_DIE, path, moment], check=True, timeout=60)
    store = RocksStore(path)
    assert len(store.get_many(JOBS, [b"acme\x005"])) == 1
    assert store.get(JOBS, b"acme\x005") is not None
    replay = Replay(store, "id")
    assert replay.next_offset == 0
    row = state.encode_job(1_000, 7, 0, 0, 7, 0, None, [], b"payload")
    replay.apply([(b"acme\x00new", row)], 3)
    assert replay.finish()
    assert dump(store)[JOBS] == {b"acme\x00new": row}
    assert len(dump(store)[DUE]) == 1
    assert state.decode_changelog_offset(store.get(META, state.CHANGELOG_KEY) or b"") == (3, "id")
    store.close()


def test_rebuild_that_is_not_wanted_any_more_ends(tmp_path: Path) -> None:
    """Indexing stops between two stretches, and what it left is taken for an empty store."""
    store = RocksStore(tmp_path / "store")
    replay = Replay(store, "id")
    row = state.encode_job(1_000, 1, 0, 0, 1, 0, None, [], b"payload")
    replay.apply([(b"acme\x00%d" % n, row) for n in range(3 * INDEX_ROWS)], 9)
    answers = iter([True, False])
    assert not replay.finish(lambda: next(answers))
    store.close()
    reopened = RocksStore(tmp_path / "store")
    assert Replay(reopened, "id").next_offset == 0
    reopened.close()


def test_rebuild_indexes_as_the_tail_does() -> None:
    """Jobs of many tenants, with and without expiry, get the same rows and counts either way."""
    tenants = (b"a", b"a-b", b"ab", b"b")
    records: list[tuple[bytes, bytes | None]] = []
    for number in range(5_000):
        due_ms = 1_000_000 + number * 137
        expires_ms = due_ms + (number % 5 - 1) * 1_000 if number % 3 == 0 else 0
        row = state.encode_job(due_ms, number, expires_ms, 0, number, 0, None, [], b"")
        records.append((state.job_key(tenants[number % 4], b"%d" % number), row))
    whole, tail = MemoryStore(), MemoryStore()
    replay = Replay(whole, "id")
    replay.apply(records, len(records))
    replay.finish()
    replay = Replay(tail, "id")
    replay.finish()
    replay.apply(records, len(records))
    assert dump(whole) == dump(tail)


def test_applying_a_stretch_twice_is_harmless() -> None:
    """A tail that overlaps what the store has changes nothing."""
    driver = Driver()
    history(driver, 0)
    log = driver.changelogs[0]
    store = MemoryStore()
    replay = Replay(store, "")
    replay.apply(log, len(log))
    replay.finish()
    before = dump(store)
    replay.apply(log, len(log))
    assert dump(store) == before


def test_newer_changelog_is_refused() -> None:
    """A job of a newer version stops the rebuild by name."""
    for records in ([(b"t\x00a", b"\x02job")],):
        with pytest.raises(state.UnknownVersion):
            Replay(MemoryStore(), "").apply(records, 1)
