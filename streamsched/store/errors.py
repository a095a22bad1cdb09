"""What can be wrong with a store; the text of each is one sentence for the user."""


class StoreError(Exception):
    """A store cannot be used; the text names the store, the fault and the remedy."""


class StoreClosed(StoreError):
    """A store or a cursor was used after it was closed."""


class StoreLocked(StoreError):
    """Another process, or another store object of this one, has the folder open."""


class StoreTooNew(StoreError):
    """The folder was written by a newer version of streamsched."""


class StoreCorrupt(StoreError):
    """The folder's content cannot be read; it can be rebuilt from the changelog."""


class StoreUnwritable(StoreError):
    """The folder cannot be created or written: rights, a file in the way, a full disk."""
