"""A store in memory: what tests and the driver run on."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias

from sortedcontainers import SortedDict  # type: ignore[import-untyped]

from streamsched.core.store import FAMILIES, Row, Write
from streamsched.store.errors import StoreClosed

_Rows: TypeAlias = Any
"""A `SortedDict` of bytes to bytes; sortedcontainers comes without types."""


_NO_ROWS: _Rows = SortedDict()


class MemoryCursor:
    """A cursor on one family, which sees the rows as they were when it was made.

    The cursor shares the family's rows with the store until the store is about to change that
    family; only then is the family copied, once for all its cursors. So a cursor costs nothing
    when, as in a cycle, everything is read before anything is written.
    """

    __slots__ = ("_closed", "_index", "_keys", "_lower", "_owner", "_rows", "_upper")

    def __init__(self, owner: "MemoryStore", rows: _Rows, lower: bytes, upper: bytes) -> None:
        self._owner = owner
        self._closed = False
        self._lower = lower
        self._upper = upper
        self._share(rows)
        self._index = self._rows.bisect_left(lower)

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
        """Let go of the rows; the cursor is not valid from here on."""
        self._closed = True
        self._share(_NO_ROWS)

    def shares(self, rows: _Rows) -> bool:
        """Whether a change of `rows` would be seen here."""
        return self._rows is rows

    def _share(self, rows: _Rows) -> None:
        self._rows = rows
        self._keys = rows.keys()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreClosed("a cursor of the store in memory is closed; make a new one")

    def valid(self) -> bool:
        """Whether the cursor stands on a row."""
        keys = self._keys
        return self._index < len(keys) and bool(keys[self._index] < self._upper)

    def key(self) -> bytes:
        """The key it stands on; only while `valid()`."""
        self._refuse_if_closed()
        found: bytes = self._keys[self._index]
        return found

    def value(self) -> bytes:
        """The value it stands on; only while `valid()`."""
        self._refuse_if_closed()
        found: bytes = self._rows[self._keys[self._index]]
        return found

    def next(self) -> None:
        """Move to the following row; nowhere when there is none."""
        if self.valid():
            self._index += 1

    def seek(self, key: bytes) -> None:
        """Move to the first row at or after `key`, within the bounds."""
        self._refuse_if_closed()
        self._index = self._rows.bisect_left(max(key, self._lower))


class MemoryStore:
    """Four sorted dictionaries behind the contract of `streamsched.core.store.Store`."""

    def __init__(self) -> None:
        self._families: dict[str, _Rows] = {family: SortedDict() for family in FAMILIES}
        self._cursors: set[MemoryCursor] = set()
        self._closed = False

    def get(self, family: str, key: bytes) -> bytes | None:
        """The value of `key`, or `None`."""
        self._refuse_if_closed()
        found: bytes | None = self._families[family].get(key)
        return found

    def get_many(self, family: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of `keys`, in their order."""
        self._refuse_if_closed()
        get = self._families[family].get
        return [get(key) for key in keys]

    def cursor(self, family: str, lower: bytes, upper: bytes) -> MemoryCursor:
        """A cursor on the first row with `lower <= key < upper`."""
        self._refuse_if_closed()
        cursor = MemoryCursor(self, self._families[family], lower, upper)
        self._cursors.add(cursor)
        return cursor

    def stretches(self, family: str, rows_max: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """All rows of a family in order, `rows_max` at a time."""
        self._refuse_if_closed()
        rows = list(self._families[family].items())
        for first in range(0, len(rows), rows_max):
            yield rows[first : first + rows_max]

    def write(self, batch: Sequence[Write]) -> None:
        """Apply all changes of `batch` in their order, or, where one is impossible, none."""
        self._refuse_if_closed()
        # An unknown family fails here, before anything has changed.
        for family in {family for family, _, _ in batch}:
            self._part_from_cursors(family)
        families = self._families
        for family, key, value in batch:
            if value is None:
                families[family].pop(key, None)
            else:
                families[family][key] = value

    def begin_load(self) -> None:
        """Remove every row, and release all cursors."""
        self._refuse_if_closed()
        self._release_cursors()
        self._families = {family: SortedDict() for family in FAMILIES}

    def load(self, family: str, rows: Sequence[Row]) -> None:
        """Put rows in their order, or delete where the value is `None`."""
        self.write([(family, key, value) for key, value in rows])

    def end_load(self) -> None:
        """Release all cursors; here there is nothing to make safe."""
        self._refuse_if_closed()
        self._release_cursors()

    def close(self) -> None:
        """Drop the rows, with all cursors; closing twice is harmless."""
        self._closed = True
        self._families = {}
        self._release_cursors()

    def _release_cursors(self) -> None:
        for cursor in self._cursors:
            cursor.release()
        self._cursors.clear()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreClosed("the store in memory is closed; make a new one")

    def _part_from_cursors(self, family: str) -> None:
        rows = self._families[family]
        if any(cursor.shares(rows) for cursor in self._cursors):
            self._families[family] = SortedDict(rows)

    def forget(self, cursor: MemoryCursor) -> None:
        """Called by a cursor at its end."""
        self._cursors.discard(cursor)
