"""What the scheduler asks of the store of one partition.

A store holds four families of sorted byte keys. `streamsched.store` has two implementations,
one in memory and one on RocksDB, under one conformance suite.
"""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

JOBS: Final = "jobs"
DUE: Final = "due"
READY: Final = "ready"
META: Final = "meta"
FAMILIES: Final = (JOBS, DUE, READY, META)

Row = tuple[bytes, bytes | None]
"""Key and value in one family; `None` deletes the key."""

Write = tuple[str, bytes, bytes | None]
"""One change: family, key, and the new value or `None` to delete the key."""


class Cursor(Protocol):
    """A position in one family, moving in ascending byte order between two bounds.

    A cursor sees the store as it was when the cursor was made. It must be closed before the
    store is: a live RocksDB iterator keeps the database locked.
    """

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def valid(self) -> bool:
        """Whether the cursor stands on a row."""
        ...

    def key(self) -> bytes:
        """The key it stands on; only while `valid()`."""
        ...

    def value(self) -> bytes:
        """The value it stands on; only while `valid()`."""
        ...

    def next(self) -> None:
        """Move to the following row."""
        ...

    def seek(self, key: bytes) -> None:
        """Move to the first row at or after `key`, within the bounds."""
        ...


class Reader(Protocol):
    """The reads of a store; the only I/O that the core does."""

    def get(self, family: str, key: bytes) -> bytes | None:
        """The value of `key`, or `None`."""
        ...

    def get_many(self, family: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of `keys`, in their order."""
        ...

    def cursor(self, family: str, lower: bytes, upper: bytes) -> Cursor:
        """A cursor on the first row with `lower <= key < upper`."""
        ...

    def stretches(self, family: str, rows_max: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """All rows of a family in order, `rows_max` at a time; it must end before the store."""
        ...


class Store(Reader, Protocol):
    """A partition's store: reads, one atomic write, and an end."""

    def write(self, batch: Sequence[Write]) -> None:
        """Apply all changes of `batch` in their order, atomically: all or none survives a kill."""
        ...

    def begin_load(self) -> None:
        """Remove every row, and take new ones by `load` alone; cursors are gone after it."""
        ...

    def load(self, family: str, rows: Sequence[Row]) -> None:
        """Put rows in their order, or delete where the value is `None`.

        Far cheaper than `write`, but a kill before `end_load` loses any of them. So whoever loads
        writes what makes the rows count after `end_load`, and begins anew where it is not there.
        """
        ...

    def end_load(self) -> None:
        """Make what was loaded as safe as what is written; cursors are gone after it."""
        ...

    def close(self) -> None:
        """Release the store and its lock; closing twice is harmless."""
        ...
