"""The local stores of a process, by number of the partition."""

from pathlib import Path
from typing import Protocol

from streamsched.core.store import Store
from streamsched.settings import Settings
from streamsched.store.rocks import RocksStore


class Stores(Protocol):
    """Where the state of each partition lies on this machine; all calls may block."""

    def open(self, partition: int) -> Store:
        """Open the partition's store, or make it.

        Raises `StoreLocked` while another has it open, `StoreCorrupt` where only `destroy` helps,
        and other kinds of `StoreError` where nothing does.
        """
        ...

    def destroy(self, partition: int) -> None:
        """Remove the partition's state; what is not there is no error. Raises `StoreError`."""
        ...

    def place(self, partition: int) -> str:
        """What messages to users call the partition's store."""
        ...


class RocksStores:
    """One RocksDB database a partition, in a folder each."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is opened yet."""
        self._folder = settings.data_dir / settings.app_id

    def open(self, partition: int) -> RocksStore:
        """See `Stores.open`."""
        return RocksStore(self._path(partition))

    def destroy(self, partition: int) -> None:
        """See `Stores.destroy`."""
        RocksStore.destroy(self._path(partition))

    def place(self, partition: int) -> str:
        """The folder."""
        return str(self._path(partition))

    def _path(self, partition: int) -> Path:
        return self._folder / str(partition)
