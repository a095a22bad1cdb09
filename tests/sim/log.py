"""Partitioned topics as a broker keeps them: offsets, transactions, markers, compaction."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

OPEN, COMMITTED, ABORTED = "open", "committed", "aborted"

Headers = Sequence[tuple[str, bytes | None]]


class Transaction:
    """One transaction of one producer; its records share it and learn their fate from it."""

    __slots__ = ("by", "decided", "number", "places", "state")

    def __init__(self, by: str, number: int) -> None:
        self.by = by
        self.number = number
        self.state = OPEN
        """What readers know: it changes when the markers are written."""
        self.decided = OPEN
        """What the coordinator has decided."""
        self.places: set[PartitionLog] = set()
        """Where it has written."""


@dataclass(slots=True, eq=False)
class Entry:
    """One record, or the marker that ends a transaction (`is_marker`)."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int
    appended_at: float
    """Virtual seconds."""
    transaction: Transaction | None = None
    is_marker: bool = False
    timestamp_type: int = 0

    @property
    def is_readable(self) -> bool:
        """Whether a read_committed reader is given it, once it lies below the stable offset."""
        if self.is_marker:
            return False
        return self.transaction is None or self.transaction.state == COMMITTED


class PartitionLog:
    """One partition. `history` keeps what compaction removes from `entries`, for the judge."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.entries: list[Entry] = []
        self.history: list[Entry] = []
        self.end = 0
        self._offsets: list[int] = []
        self._open: dict[Transaction, int] = {}

    def append(self, entry: Entry) -> int:
        """Add a record or a marker at the end; returns its offset."""
        entry.offset = self.end
        self.end += 1
        self.entries.append(entry)
        self.history.append(entry)
        self._offsets.append(entry.offset)
        transaction = entry.transaction
        if transaction is not None:
            if entry.is_marker:
                self._open.pop(transaction, None)
            else:
                transaction.places.add(self)
                self._open.setdefault(transaction, entry.offset)
        return entry.offset

    @property
    def low(self) -> int:
        """The earliest offset; compaction does not raise it."""
        return 0

    @property
    def stable(self) -> int:
        """The last stable offset: below it no transaction is open."""
        return min(self._open.values(), default=self.end)

    def read(self, offset: int, most: int) -> tuple[list[Entry], int]:
        """Committed records from `offset` on, at most `most`, and the position after them."""
        stable = self.stable
        found: list[Entry] = []
        index = bisect_left(self._offsets, offset)
        entries = self.entries
        while index < len(entries) and entries[index].offset < stable:
            entry = entries[index]
            if entry.is_readable:
                if len(found) == most:
                    return found, entry.offset
                found.append(entry)
            index += 1
        return found, max(offset, stable)

    def committed(self) -> list[Entry]:
        """Everything that was ever readable, compacted or not."""
        stable = self.stable
        return [e for e in self.history if e.offset < stable and e.is_readable]

    def decided(self, upto: int) -> list[Entry]:
        """Every record below `upto` that is or will be readable, compacted or not."""
        return [
            e
            for e in self.history
            if e.offset < upto
            and not e.is_marker
            and (e.transaction is None or e.transaction.decided == COMMITTED)
        ]

    def rows(self) -> dict[bytes | None, bytes | None]:
        """The last committed value of each key."""
        return {e.key: e.value for e in self.read(0, 1 << 30)[0]}

    def compact(
        self,
        now: float,
        tombstone_seconds: float,
        keeps: Callable[[Entry], bool] = lambda _: False,
    ) -> int:
        """Keep each key's last record; tombstones go when they are old enough.

        What `keeps` says stays all the same, as in a segment that is not cleaned yet.
        """
        upto = self.stable
        last: dict[bytes | None, int] = {}
        for entry in self.entries:
            if entry.offset < upto and entry.is_readable:
                last[entry.key] = entry.offset
        kept: list[Entry] = []
        for entry in self.entries:
            if entry.offset >= upto:
                kept.append(entry)
                continue
            if entry.is_readable and keeps(entry):
                kept.append(entry)
                continue
            if not entry.is_readable or last[entry.key] != entry.offset:
                continue
            if entry.value is None and now - entry.appended_at > tombstone_seconds:
                continue
            kept.append(entry)
        removed = len(self.entries) - len(kept)
        self.entries = kept
        self._offsets = [entry.offset for entry in kept]
        return removed


@dataclass
class Topic:
    """A topic as the cluster knows it. `refuses` makes records fail, `missing` hides it."""

    name: str
    partitions: list[PartitionLog]
    max_message_bytes: int = 1_048_588
    refuses: bool = False
    missing: bool = False
