"""What only the RocksDB store does: survive, lock, refuse a folder, and stay within bounds."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import rocksdict

from streamsched.core.store import DUE, FAMILIES, JOBS, META, READY
from streamsched.store import rocks_options
from streamsched.store.errors import (
    StoreClosed,
    StoreCorrupt,
    StoreError,
    StoreLocked,
    StoreTooNew,
    StoreUnwritable,
)
from streamsched.store.folder import FORMAT_FILE, FORMAT_VERSION
from streamsched.store.rocks import RocksStore

TOP = b"\xff" * 300
ROWS_PER_BATCH = 30

# Writes batch after batch, and says the number of each once `write` has returned.
WRITER = """
import sys
from streamsched.core.store import DUE, JOBS, META
from streamsched.store.rocks import RocksStore

store = RocksStore(sys.argv[1])
number = int.from_bytes(store.get(META, b"next") or b"", "big")
while True:
    at = number.to_bytes(8, "big")
    batch = [(META, b"next", (number + 1).to_bytes(8, "big"))]
    for row in range(int(sys.argv[2])):
        batch.append((JOBS, at + bytes([row]), at * 40))
        batch.append((DUE, at + bytes([row]), at))
        if number:
            batch.append((DUE, (number - 1).to_bytes(8, "big") + bytes([row]), None))
    store.write(batch)
    print(number, flush=True)
    number += 1
"""

HOLDER = """
import sys
from streamsched.store.rocks import RocksStore

store = RocksStore(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "deep" / "store"


def keys_of(store: RocksStore, family: str) -> list[bytes]:
    """All keys of a family, in order."""
    keys = []
    with store.cursor(family, b"", TOP) as cursor:
        while cursor.valid():
            keys.append(cursor.key())
            cursor.next()
    return keys


def make(path: Path) -> None:
    """A store with a row, closed again."""
    store = RocksStore(path)
    store.write([(JOBS, b"a", b"1")])
    store.close()


def test_kill_leaves_whole_batches_and_all_acknowledged_ones(
    path: Path, rng: random.Random
) -> None:
    """After kill -9 at any moment each batch is there whole or not at all, none said is lost."""
    said = -1
    for _ in range(6):
        until = said + rng.randrange(1, 400)
        said = write_until_killed(path, until, rng.randrange(4_000))
        store = RocksStore(path)
        count = int.from_bytes(store.get(META, b"next") or b"", "big")
        assert count > said, f"batch {said} was acknowledged and is lost"
        rows = [bytes([row]) for row in range(ROWS_PER_BATCH)]
        jobs = keys_of(store, JOBS)
        assert jobs == [n.to_bytes(8, "big") + row for n in range(count) for row in rows]
        assert keys_of(store, DUE) == jobs[-ROWS_PER_BATCH:]
        store.close()


def write_until_killed(path: Path, until: int, spins: int) -> int:
    """Kill a writer some moments after it said `until`; the last number that it said."""
    command = [sys.executable, "-c", WRITER, str(path), str(ROWS_PER_BATCH)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        try:
            said = -1
            while said < until:
                line = writer.stdout.readline()
                assert line, "the writer ended by itself"
                said = int(line)
            for _ in range(spins):
                os.getpid()
        finally:
            os.kill(writer.pid, signal.SIGKILL)
        # What it managed to say between the last line read and its end counts as well.
        rest = writer.stdout.read()
        whole = rest[: rest.rfind("\n") + 1].split()
        return int(whole[-1]) if whole else said


def test_rows_outlive_closing(path: Path) -> None:
    """What was written is there after the store was closed and opened again."""
    make(path)
    store = RocksStore(path)
    assert store.get(JOBS, b"a") == b"1"
    store.close()


def test_close_releases_the_lock_after_cursors_were_used(path: Path) -> None:
    """Fifty times opened, read by cursors, some never closed, and closed: always free again."""
    abandoned = []
    for turn in range(50):
        store = RocksStore(path)
        key = turn.to_bytes(2, "big")
        store.write([(family, key, b"v") for family in FAMILIES])
        with store.cursor(JOBS, b"", TOP) as cursor:
            assert cursor.valid()
            cursor.seek(key)
            assert cursor.key() == key
        abandoned.append(store.cursor(DUE, b"", TOP))
        abandoned[-1].next()
        store.close()
    last = RocksStore(path)
    assert len(keys_of(last, READY)) == 50
    last.close()


def test_close_releases_the_lock_after_an_error(path: Path) -> None:
    """A batch and a cursor that failed half-way, their traceback kept, hold no lock."""
    store = RocksStore(path)
    with pytest.raises(KeyError) as kept:
        store.write([(JOBS, b"a", b"1"), ("nothing", b"a", b"1")])
    with pytest.raises(ZeroDivisionError), store.cursor(JOBS, b"", TOP):
        raise ZeroDivisionError
    store.close()
    RocksStore(path).close()
    assert kept.tb is not None


def test_every_family_keeps_its_options_when_reopened(path: Path) -> None:
    """Cache and buffer sizes, and the filter of jobs, are in force after reopening too."""
    make(path)
    cache = rocksdict.Cache(7 << 20)
    store = RocksStore(path, cache)
    for family in FAMILIES:
        reader = store._reader(family)
        assert reader.property_int_value("rocksdb.block-cache-capacity") == 7 << 20
    options = newest_options(path)
    for family in FAMILIES:
        settings = options[family]
        assert settings["write_buffer_size"] == str(rocks_options.WRITE_BUFFER_BYTES)
        assert settings["cache_index_and_filter_blocks"] == "true"
        assert ("bloomfilter" in settings["filter_policy"]) == (family == JOBS)
    store.close()


def newest_options(path: Path) -> dict[str, dict[str, str]]:
    """Options of each family as RocksDB itself wrote them down when the store was opened."""
    newest = max(path.glob("OPTIONS-*"), key=lambda file: int(file.name.split("-")[1]))
    families: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in newest.read_text().splitlines():
        if line.startswith("["):
            current = families.setdefault(line.split('"')[1] if '"' in line else line, {})
        elif "=" in line:
            name, _, value = line.strip().partition("=")
            current[name] = value
    return families


def test_write_buffers_are_bounded_over_all_stores(tmp_path: Path) -> None:
    """Many stores together write out before any of them alone would have to."""
    stores = [RocksStore(tmp_path / str(number)) for number in range(8)]
    chance = random.Random(1)
    per_store = rocks_options.WRITE_BUFFER_BYTES * 3 // 4
    assert per_store * len(stores) > rocks_options.WRITE_BUFFERS_BYTES * 1.2
    for number in range(per_store // 100_000):
        for store in stores:
            row = number.to_bytes(4, "big")
            store.write([(JOBS, row, chance.randbytes(100_000))])
    # Writers are not stalled, so the bound is passed for as long as a write-out takes.
    deadline = time.monotonic() + 30
    while sum(store.write_buffer_bytes() for store in stores) > rocks_options.WRITE_BUFFERS_BYTES:
        assert time.monotonic() < deadline, "write buffers stay above their bound"
        os.sched_yield()
    assert sum(store.size_bytes() for store in stores) > 0
    for store in stores:
        store.close()


def test_store_open_in_this_process_is_locked(path: Path) -> None:
    """A second object on the same folder is refused, and so is its removal."""
    store = RocksStore(path)
    with pytest.raises(StoreLocked, match="in use"):
        RocksStore(path)
    with pytest.raises(StoreLocked, match="in use"):
        RocksStore.destroy(path)
    store.write([(JOBS, b"a", b"1")])
    store.close()
    make(path)


def test_store_open_in_another_process_is_locked(path: Path) -> None:
    """A folder that another process has open is neither opened nor removed."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "open\n"
            with pytest.raises(StoreLocked, match=f"store {path} is in use by another process"):
                RocksStore(path)
            with pytest.raises(StoreLocked, match="in use"):
                RocksStore.destroy(path)
        finally:
            holder.stdin.close()
    make(path)


def test_newer_format_is_refused(path: Path) -> None:
    """A folder of a newer format is named as such, in one sentence, and left as it is."""
    make(path)
    (path / FORMAT_FILE).write_text(f"{FORMAT_VERSION + 1}\n")
    before = sorted(path.iterdir())
    with pytest.raises(StoreTooNew, match=f"has format {FORMAT_VERSION + 1}") as refusal:
        RocksStore(path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert sorted(path.iterdir()) == before


@pytest.mark.parametrize("content", ["", "0\n", "one\n", "-1\n", "9" * 40, "\xff"])
def test_unreadable_format_is_corrupt(path: Path, content: str) -> None:
    """A format file that says nothing sensible is damage, and the store can be removed."""
    make(path)
    (path / FORMAT_FILE).write_text(content, encoding="latin-1")
    with pytest.raises(StoreCorrupt, match="format"):
        RocksStore(path)
    RocksStore.destroy(path)
    assert not path.exists()


def test_foreign_database_is_refused(path: Path) -> None:
    """A RocksDB database that is not ours is neither opened nor removed."""
    path.mkdir(parents=True)
    rocksdict.Rdict(str(path)).close()
    with pytest.raises(StoreCorrupt, match="not streamsched's"):
        RocksStore(path)
    with pytest.raises(StoreError, match="left alone"):
        RocksStore.destroy(path)
    assert (path / "CURRENT").exists()


def read(path: Path) -> None:
    """Open a store and read a row."""
    store = RocksStore(path)
    try:
        store.get(JOBS, b"a")
    finally:
        store.close()


@pytest.mark.parametrize("pattern", ["CURRENT", "MANIFEST-*", "*.sst"])
@pytest.mark.parametrize("damage", ["missing", "garbled"])
def test_damaged_files_are_corrupt(path: Path, pattern: str, damage: str) -> None:
    """A missing or garbled file of the database is found, and the store can be rebuilt."""
    make(path)
    for file in list(path.glob(pattern)):
        if damage == "missing":
            file.unlink()
        else:
            file.write_bytes(bytes(byte ^ 0x55 for byte in file.read_bytes()))
    with pytest.raises(StoreCorrupt, match="damaged"):
        read(path)
    RocksStore.destroy(path)
    make(path)


def test_cursor_tells_damage_from_the_end(path: Path) -> None:
    """A scan that meets a damaged block fails instead of ending early."""
    store = RocksStore(path)
    chance = random.Random(1)
    store.write([(JOBS, bytes([row]), chance.randbytes(1_000)) for row in range(200)])
    store.close()
    (table,) = (file for file in path.glob("*.sst") if file.stat().st_size > 100_000)
    content = bytearray(table.read_bytes())
    content[100_000:100_200] = bytes(200)
    table.write_bytes(content)
    store = RocksStore(path, rocksdict.Cache(1 << 20))
    with pytest.raises(StoreCorrupt, match="damaged"):
        keys_of(store, JOBS)
    with pytest.raises(StoreCorrupt):
        list(store.stretches(JOBS, 7))
    store.close()


def test_folder_in_the_way_of_a_file_is_unwritable(tmp_path: Path) -> None:
    """A file where the folder, or one above it, should be is named in one sentence."""
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(StoreUnwritable, match=f"store {path} cannot be written") as refusal:
            RocksStore(path)
        assert "\n" not in str(refusal.value)


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Root may write everywhere, so a test of rights steps down from it."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65_534)
    yield
    os.seteuid(was)


@pytest.fixture
def unwritable_folder() -> Iterator[Path]:
    """A folder open to all for reading and to nobody for writing, with a store in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "store")
        for entry in (*folder.rglob("*"), folder):
            entry.chmod(0o555 if entry.is_dir() else 0o444)
        yield folder
        for entry in (folder, folder / "store"):
            entry.chmod(0o755)


@pytest.mark.parametrize("name", ["new", "store"])
def test_folder_without_rights_is_unwritable(
    unwritable_folder: Path, unprivileged: None, name: str
) -> None:
    """A folder that may be read but not written is named in one sentence, new or in use."""
    path = unwritable_folder / name
    with pytest.raises(StoreUnwritable, match=f"store {path} cannot be written"):
        RocksStore(path)


def test_upper_bounds_stay_with_their_cursors(path: Path) -> None:
    """Many cursors open at once, made while memory is reused, each end at their own bound."""
    store = RocksStore(path)
    store.write([(JOBS, row.to_bytes(2, "big"), b"v") for row in range(300)])
    cursors = [store.cursor(JOBS, b"", end.to_bytes(2, "big")) for end in range(300)]
    for end, cursor in enumerate(cursors):
        with cursor:
            cursor.seek(max(end - 1, 0).to_bytes(2, "big"))
            assert cursor.valid() == (end > 0)
            cursor.next()
            assert not cursor.valid()
    store.close()


def test_destroy_removes_the_folder(path: Path) -> None:
    """Nothing of a destroyed store is left, and destroying a missing one is harmless."""
    make(path)
    RocksStore.destroy(path)
    assert not path.exists()
    RocksStore.destroy(path)
    store = RocksStore(path)
    assert keys_of(store, JOBS) == []
    store.close()


def test_sizes_follow_the_rows(path: Path) -> None:
    """Estimates of rows, buffers and files grow with what is written."""
    store = RocksStore(path)
    empty = store.write_buffer_bytes()
    store.write([(JOBS, n.to_bytes(4, "big"), bytes(2_000)) for n in range(2_000)])
    assert store.rows_estimate(JOBS) == 2_000
    assert store.rows_estimate(DUE) == 0
    assert store.write_buffer_bytes() > empty + 2_000_000
    store.close()
    store = RocksStore(path)
    assert store.size_bytes() > 0
    store.close()


def test_closed_while_a_thread_loads_it_stays_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load that outlives its owner does not open the store again behind its back."""
    store = RocksStore(path)
    store.begin_load()
    store.load(JOBS, [(b"a", b"1")])
    write_out = store._write_out

    def slowly(family: str) -> None:
        write_out(family)
        if family == FAMILIES[-1]:
            store.close()

    monkeypatch.setattr(store, "_write_out", slowly)
    with pytest.raises(StoreClosed, match="while it was loaded"):
        store.end_load()
    RocksStore(path).close()
