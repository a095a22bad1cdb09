"""The folder of a store on disk: its format file, and what a failure to open it means.

The folder holds one RocksDB database and the file `FORMAT_FILE` with the decimal number of the
format that its rows are in. The file is written before the database is made, so a database
without it is not ours, and an old scheduler knows a newer store before it opens it.
"""

import fcntl
import shutil
from pathlib import Path
from typing import IO, Final

from rocksdict import Rdict

from streamsched.store.errors import (
    StoreCorrupt,
    StoreError,
    StoreLocked,
    StoreTooNew,
    StoreUnwritable,
)

FORMAT_FILE: Final = "streamsched-format"
LOCK_FILE: Final = "lock"
FORMAT_VERSION: Final = 1
"""Raise it when families or their keys change; row values carry version bytes of their own."""

_LOCK_SIGNS: Final = ("lock hold by current process", "While lock file")
_CORRUPT_SIGNS: Final = ("Corruption", "Invalid argument", "IO error: No such file")
"""The folder itself is there when RocksDB starts, so a missing file is one of its own."""
_UNWRITABLE_SIGNS: Final = ("(os error", "IO error", "No space", "Permission denied")


def store_error(path: Path, error: Exception) -> StoreError:
    """What an exception of RocksDB means to the user; RocksDB tells kinds apart by text only."""
    fault = str(error)
    if any(sign in fault for sign in _LOCK_SIGNS):
        return StoreLocked(
            f"store {path} is in use by another process or was not closed in this one; "
            f"stop that process or choose another data_dir"
        )
    if any(sign in fault for sign in _CORRUPT_SIGNS):
        return StoreCorrupt(
            f"store {path} is damaged ({fault}); remove it, and it is rebuilt from the changelog"
        )
    if any(sign in fault for sign in _UNWRITABLE_SIGNS):
        return _unwritable(path, fault)
    return StoreError(
        f"store {path} failed ({fault}); remove it, and it is rebuilt from the changelog"
    )


def prepare(path: Path) -> None:
    """Make the folder with its format file, or check the format of the one that is there.

    Raises `StoreUnwritable`, `StoreTooNew` or `StoreCorrupt`.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not check_format(path):
            _write_format(path)
    except OSError as error:
        raise _unwritable(path, str(error)) from error


def check_format(path: Path) -> bool:
    """Whether a store of this version's format lies at `path`; `False` for one yet to be made.

    Raises `StoreTooNew` or `StoreCorrupt`, and `OSError` where it cannot be read.
    """
    found = _read_format(path)
    if found is None:
        if (path / "CURRENT").exists():
            raise StoreCorrupt(
                f"store {path} holds a database without the file {FORMAT_FILE}, so it is "
                f"not streamsched's; choose another data_dir"
            )
        return False
    if found > FORMAT_VERSION:
        raise StoreTooNew(
            f"store {path} has format {found}, and this version of streamsched knows only up to "
            f"{FORMAT_VERSION}; run the newer version, or remove the store to have it rebuilt"
        )
    if found < FORMAT_VERSION:
        raise StoreCorrupt(
            f"store {path} has format {found}, which never existed; remove it, and it is rebuilt "
            f"from the changelog"
        )
    return True


def claim(folder: Path) -> IO[bytes]:
    """Keep other processes out of the folder that holds the stores, until the file is closed.

    The lock of each store comes too late: with standbys every process of a group opens all of
    them, so a second one on the same folder would run into the first one's and the first into the
    second's. Raises `StoreLocked` or `StoreUnwritable`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("ab")
    except OSError as error:
        raise _unwritable(folder, str(error)) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StoreLocked(
            f"folder {folder} is in use by another process: stop that one, or choose another "
            "data_dir for this one"
        ) from error
    return lock


def destroy(path: Path) -> None:
    """Remove a store from disk; one that is not there is no error.

    Raises `StoreLocked` while it is open anywhere, `StoreError` for a folder that is not a
    store's, and `StoreUnwritable` when the folder cannot be removed.
    """
    if not path.exists():
        return
    if not (path / FORMAT_FILE).exists():
        raise StoreError(
            f"folder {path} has no file {FORMAT_FILE}, so it is not a store and is left alone; "
            f"remove it by hand"
        )
    try:
        Rdict.destroy(str(path))
    except Exception as error:  # rocksdict raises nothing narrower
        raise store_error(path, error) from error
    try:
        # RocksDB leaves what it does not know. The format file goes last, because a folder
        # without it would be refused by the next attempt.
        for entry in path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != FORMAT_FILE:
                entry.unlink()
        (path / FORMAT_FILE).unlink()
        path.rmdir()
    except OSError as error:
        raise _unwritable(path, str(error)) from error


def _read_format(path: Path) -> int | None:
    try:
        text = (path / FORMAT_FILE).read_bytes()
    except FileNotFoundError:
        return None
    if not (text.strip().isdigit() and len(text) < 10):
        raise StoreCorrupt(
            f"store {path} has an unreadable file {FORMAT_FILE}; remove the store, and it is "
            f"rebuilt from the changelog"
        )
    return int(text)


def _write_format(path: Path) -> None:
    # Renamed into place, so a kill leaves the whole file or none.
    draft = path / f"{FORMAT_FILE}.new"
    draft.write_text(f"{FORMAT_VERSION}\n", encoding="ascii")
    draft.replace(path / FORMAT_FILE)


def _unwritable(path: Path, fault: str) -> StoreUnwritable:
    return StoreUnwritable(
        f"store {path} cannot be written ({fault}); check rights and space, or choose another "
        f"data_dir"
    )
