"""The disk of a host: stores in memory whose rows outlive the process, and can be lost."""

import random
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakValueDictionary

from streamsched.core.store import Write
from streamsched.store.errors import StoreLocked
from streamsched.store.memory import MemoryStore

SYNC_SHARE = 0.1
"""Of the writes, how many are followed by a sync."""


class DiskStore(MemoryStore):
    """A store whose rows lie on a disk, where a kill leaves what was written."""

    def __init__(self, disk: "Disk", partition: int, effect: Callable[[str], None]) -> None:
        super().__init__()
        self._disk = disk
        self._partition = partition
        self._effect = effect
        self._families = disk.rows.setdefault(partition, self._families)
        disk.is_open[partition] = self

    def write(self, batch: Sequence[Write]) -> None:
        """Write as one effect: all of it or none."""
        self._refuse_if_closed()
        self._effect("apply")
        super().write(batch)
        self._disk.maybe_sync(self._partition)

    def begin_load(self) -> None:
        """Remove every row, on the disk too."""
        self._refuse_if_closed()
        self._effect("wipe")
        super().begin_load()
        self._disk.synced.pop(self._partition, None)
        self._disk.rows[self._partition] = self._families

    def close(self) -> None:
        """Leave the rows to the disk."""
        if self._disk.is_open.get(self._partition) is self:
            del self._disk.is_open[self._partition]
        super().close()


class Disk:
    """Rows by partition, of one host."""

    def __init__(self, rng: random.Random) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self.synced: dict[int, dict[str, Any]] = {}
        """What a loss of power leaves: the rows as they were at an earlier moment."""
        self._rng = rng
        # Weak: a store that a cancelled task never got hold of is closed with its last reference.
        self.is_open: WeakValueDictionary[int, DiskStore] = WeakValueDictionary()

    def release(self) -> None:
        """The process that had stores open is dead."""
        self.is_open.clear()

    def maybe_sync(self, partition: int) -> None:
        """Now and then the rows reach the medium itself."""
        if self._rng.random() < SYNC_SHARE:
            rows = self.rows[partition]
            self.synced[partition] = {family: rows[family].copy() for family in rows}

    def lose_power(self) -> None:
        """Each store is as it was when it was last synced."""
        self.rows, self.synced = self.synced, {}

    def lose(self) -> None:
        """Everything is gone."""
        self.rows.clear()
        self.synced.clear()


class SimStores:
    """`Stores` of one process on its host's disk."""

    def __init__(self, disk: Disk, effect: Callable[[str], None]) -> None:
        self._disk = disk
        self._effect = effect

    def open(self, partition: int) -> DiskStore:
        """See `Stores.open`."""
        if partition in self._disk.is_open:
            raise StoreLocked(f"store of partition {partition} is open already")
        self._effect("open")
        return DiskStore(self._disk, partition, self._effect)

    def destroy(self, partition: int) -> None:
        """See `Stores.destroy`."""
        if partition in self._disk.is_open:
            raise StoreLocked(f"store of partition {partition} is open")
        self._effect("destroy")
        self._disk.rows.pop(partition, None)
        self._disk.synced.pop(partition, None)

    def place(self, partition: int) -> str:
        """See `Stores.place`."""
        return f"disk/{partition}"
