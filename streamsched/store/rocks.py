"""The store of one partition on RocksDB: one database, one column family per family.

The write-ahead log is on and is not synced: a killed process loses nothing, a machine that
loses power loses a tail, which the changelog brings back.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from rocksdict import Cache, Rdict, RdictIter, ReadOptions, WriteBatch, WriteOptions

from streamsched.core.store import FAMILIES, Row, Write
from streamsched.store import folder
from streamsched.store.errors import StoreClosed, StoreCorrupt
from streamsched.store.rocks_options import (
    LOAD_BUFFERS_WAITING_MAX,
    column_families,
    database_options,
    process_cache,
    scan_options,
)

_ROOM_POLL_SECONDS: Final = 0.002
_ROOM_POLLS_MAX: Final = 5_000
_ABOVE_ALL: Final = b"\xff" * 512
"""Above every key, of which the longest are a tenant's name and an id."""


class RocksCursor:
    """A RocksDB iterator between two bounds; it pins the state of its making, and the lock."""

    __slots__ = ("_bounds", "_iterator", "_lower", "_owner")

    def __init__(
        self, owner: "RocksStore", iterator: RdictIter, bounds: ReadOptions, lower: bytes
    ) -> None:
        self._owner = owner
        # The iterator reads its upper bound out of this object's memory without keeping it alive.
        self._bounds = bounds
        self._iterator: RdictIter | None = iterator
        self._lower = lower
        iterator.seek(lower)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._owner.forget(self)
        self.release()

    def release(self) -> None:
        """Let go of the database; the cursor is not valid from here on."""
        self._iterator = None

    def valid(self) -> bool:
        """Whether the cursor stands on a row. Raises `StoreError` when a row is unreadable."""
        iterator = self._iterator
        if iterator is None:
            return False
        if iterator.valid():
            return True
        # An iterator that met damage looks as if it had come to the end.
        try:
            iterator.status()
        except Exception as error:  # rocksdict raises nothing narrower
            raise folder.store_error(self._owner.path, error) from error
        return False

    def key(self) -> bytes:
        """The key it stands on; only while `valid()`."""
        found: bytes = self._live().key()
        return found

    def value(self) -> bytes:
        """The value it stands on; only while `valid()`."""
        found: bytes = self._live().value()
        return found

    def next(self) -> None:
        """Move to the following row; nowhere when there is none."""
        iterator = self._iterator
        # RocksDB crashes the process when an iterator is moved past its end.
        if iterator is not None and iterator.valid():
            iterator.next()

    def seek(self, key: bytes) -> None:
        """Move to the first row at or after `key`, within the bounds."""
        # The lower bound is kept here, because rocksdict's `set_iterate_lower_bound` sets the
        # upper one.
        self._live().seek(max(key, self._lower))

    def _live(self) -> RdictIter:
        if self._iterator is None:
            raise StoreClosed(f"a cursor of store {self._owner.path} is closed; make a new one")
        return self._iterator


class RocksStore:
    """A folder with the rows of one partition; one object at a time may have it open."""

    def __init__(self, path: Path | str, cache: Cache | None = None) -> None:
        """Open the store at `path`, or make it; `cache` defaults to the one of the process.

        Raises `StoreLocked`, `StoreTooNew`, `StoreCorrupt` or `StoreUnwritable`.
        """
        self.path = Path(path)
        self._cursors: set[RocksCursor] = set()
        self._cache = process_cache() if cache is None else cache
        self._is_closed = False
        self._without_log = WriteOptions()
        # The stub has a method of this name; it is a property.
        self._without_log.disable_wal = True  # type: ignore[assignment, method-assign]
        self._open(loading=False)

    def _open(self, *, loading: bool) -> None:
        # A thread that loads may outlive its owner, who has closed the store.
        if self._is_closed:
            raise StoreClosed(f"store {self.path} was closed while it was loaded; open it again")
        folder.prepare(self.path)
        try:
            database = Rdict(
                str(self.path),
                database_options(self._cache, loading=loading),
                column_families=column_families(self._cache, loading=loading),
            )
        except Exception as error:  # rocksdict raises nothing narrower
            raise folder.store_error(self.path, error) from error
        self._database: Rdict | None = database
        self._loading = loading
        self._readers = {f: database.get_column_family(f) for f in FAMILIES}
        self._handles = {f: database.get_column_family_handle(f) for f in FAMILIES}

    @staticmethod
    def destroy(path: Path | str) -> None:
        """Remove the store at `path` from disk; one that is not there is no error.

        Raises `StoreLocked` while it is open anywhere, `StoreError` for a folder that is not a
        store's, and `StoreUnwritable` when it cannot be removed.
        """
        folder.destroy(Path(path))

    def get(self, family: str, key: bytes) -> bytes | None:
        """The value of `key`, or `None`. Raises `StoreError` when it is unreadable."""
        reader = self._reader(family)
        try:
            found: bytes | None = reader.get(key)
        except Exception as error:  # rocksdict raises nothing narrower
            raise folder.store_error(self.path, error) from error
        return found

    def get_many(self, family: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of `keys`, in their order; the interpreter's lock is free meanwhile."""
        reader = self._reader(family)
        try:
            # Only a list is looked up key by key; a tuple would be refused.
            found: list[bytes | None] | None = reader.get(list(keys))
        except Exception as error:  # rocksdict raises nothing narrower
            raise folder.store_error(self.path, error) from error
        if found is None or len(found) != len(keys):
            raise StoreCorrupt(
                f"store {self.path} did not answer each of {len(keys)} keys; "
                f"remove it, and it is rebuilt from the changelog"
            )
        return found

    def cursor(self, family: str, lower: bytes, upper: bytes) -> RocksCursor:
        """A cursor on the first row with `lower <= key < upper`; close it before the store."""
        reader = self._reader(family)
        if self._loading:
            # Loaded rows are sorted when they are written out; a cursor would have to sort them.
            self._write_out(family)
        bounds = ReadOptions()
        bounds.set_iterate_upper_bound(upper)
        cursor = RocksCursor(self, reader.iter(bounds), bounds, lower)
        self._cursors.add(cursor)
        return cursor

    def stretches(self, family: str, rows_max: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """All rows of a family in order, `rows_max` at a time; a third of a cursor's cost.

        The store cannot be closed before it has ended. Raises `StoreError` at an unreadable row.
        """
        reader = self._reader(family)
        if self._loading:
            self._write_out(family)
        last = b""
        items: Iterator[Any] = reader.items(read_opt=scan_options())
        while rows := list(islice(items, rows_max)):
            last = rows[-1][0]
            yield rows
        # It ends at damage as it does at the end. A cursor there can tell the two apart.
        with self.cursor(family, last, _ABOVE_ALL) as cursor:
            if last:
                cursor.next()
            if cursor.valid():
                raise StoreCorrupt(
                    f"store {self.path} cannot be read to its end; remove it, and it is rebuilt "
                    "from the changelog"
                )

    def write(self, batch: Sequence[Write]) -> None:
        """Apply all changes of `batch` in their order, atomically: all or none survives a kill.

        Holds the interpreter's lock for about a microsecond a row. Raises `StoreError`.
        """
        database = self._open_database()
        changes = WriteBatch(raw_mode=True)
        handles = self._handles
        put = changes.put
        delete = changes.delete
        for family, key, value in batch:
            if value is None:
                delete(key, handles[family])
            else:
                put(key, value, handles[family])
        try:
            database.write(changes)
        except Exception as error:  # rocksdict raises nothing narrower
            raise folder.store_error(self.path, error) from error

    def begin_load(self) -> None:
        """Remove the store from disk and make it anew, without a log until `end_load`.

        Raises `StoreError`.
        """
        self._open_database()
        self._shut()
        folder.destroy(self.path)
        self._open(loading=True)

    def load(self, family: str, rows: Sequence[Row]) -> None:
        """Put rows in their order, or delete where the value is `None`. Raises `StoreError`.

        Holds the interpreter's lock for about half a microsecond a row. May wait for the disk,
        without the lock.
        """
        database = self._open_database()
        self._await_room(family)
        changes = WriteBatch(raw_mode=True)
        put = changes.put
        handle = self._handles[family]
        for key, value in rows:
            if value is None:
                changes.delete(key, handle)
            else:
                put(key, value, handle)
        try:
            database.write(changes, self._without_log)
        except Exception as error:  # rocksdict raises nothing narrower
            raise folder.store_error(self.path, error) from error

    def end_load(self) -> None:
        """Write out everything that was loaded, and reopen the store with its log.

        Blocks, but frees the interpreter's lock meanwhile. Raises `StoreError`.
        """
        self._open_database()
        for family in FAMILIES:
            self._write_out(family)
        self._shut()
        self._open(loading=False)

    def close(self) -> None:
        """Release the store and its lock, with all its cursors; closing twice is harmless."""
        self._is_closed = True
        self._shut()

    def _shut(self) -> None:
        database, self._database = self._database, None
        if database is None:
            return
        # RocksDB stays open, and locked, until its last iterator, handle and family are gone.
        for cursor in self._cursors:
            cursor.release()
        self._cursors.clear()
        self._handles.clear()
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        database.close()

    def size_bytes(self) -> int:
        """Bytes in the files of all families; a cheap estimate."""
        return self._sum("rocksdb.total-sst-files-size")

    def write_buffer_bytes(self) -> int:
        """Memory of rows not yet in files, of all families; a cheap estimate."""
        return self._sum("rocksdb.cur-size-all-mem-tables")

    def rows_estimate(self, family: str) -> int:
        """About how many rows `family` has; overwritten and deleted ones may be counted."""
        return self._reader(family).property_int_value("rocksdb.estimate-num-keys") or 0

    def _write_out(self, family: str) -> None:
        try:
            self._reader(family).flush(True)
        except Exception as error:  # rocksdict raises nothing narrower
            raise folder.store_error(self.path, error) from error

    def _await_room(self, family: str) -> None:
        reader = self._reader(family)
        waiting = "rocksdb.num-immutable-mem-table"
        # Not for ever: where the disk is full nothing is written out, and the next write says so.
        for _ in range(_ROOM_POLLS_MAX):
            if (reader.property_int_value(waiting) or 0) <= LOAD_BUFFERS_WAITING_MAX:
                return
            time.sleep(_ROOM_POLL_SECONDS)

    def _sum(self, name: str) -> int:
        self._open_database()
        return sum(reader.property_int_value(name) or 0 for reader in self._readers.values())

    def _reader(self, family: str) -> Rdict:
        reader = self._readers.get(family)
        if reader is None:
            self._open_database()
            raise KeyError(family)
        return reader

    def _open_database(self) -> Rdict:
        if self._database is None:
            raise StoreClosed(f"store {self.path} is closed; open it again")
        return self._database

    def forget(self, cursor: RocksCursor) -> None:
        """Called by a cursor at its end."""
        self._cursors.discard(cursor)
