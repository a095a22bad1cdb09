"""What a scheduler needs of its machine: its data folder, room on the disk, open files."""

import fcntl
import os
import resource
import shutil
from pathlib import Path
from typing import Final

from streamsched.doctor.checkup import Subject, Verdict, failed, ok, warning, worst
from streamsched.settings import Settings
from streamsched.store.errors import StoreError
from streamsched.store.folder import LOCK_FILE, check_format

FREE_BYTES_MIN: Final = 256 * 1024 * 1024
"""A store keeps its write-ahead log, two buffers of each family and a compaction's copies."""
FREE_BYTES_WANTED: Final = 2 * 1024 * 1024 * 1024

FILES_PER_PARTITION: Final = 100
"""Files of RocksDB; it keeps them open, and more than these only with tens of millions of jobs."""
FILES_OF_PROCESS: Final = 200
FILES_MIN: Final = 256

_MIB: Final = 1024 * 1024


def check_data_folder(subject: Subject) -> Verdict:
    """Whether the stores under the data folder can be written, and read by this version."""
    faults: list[str] = []
    cautions: list[str] = []
    folders = data_folders(subject.settings)
    for folder in folders:
        fault = _unwritable(folder)
        if fault:
            faults.append(
                f"data folder {folder} cannot be written ({fault}): check rights and space, or "
                "set STREAMSCHED_DATA_DIR"
            )
        if _is_claimed(folder):
            cautions.append(
                f"folder {folder} is in use by a process: that is right for a scheduler that runs "
                "here, and another one needs a data_dir of its own"
            )
        for store in sorted(path for path in folder.glob("*") if path.is_dir()):
            try:
                check_format(store)
            except (StoreError, OSError) as error:
                faults.append(str(error))
    if faults:
        return worst(faults, cautions, "")
    return ok("; ".join([*cautions, *(f"{f} can be used" for f in folders if not cautions)]))


def check_disk(subject: Subject) -> Verdict:
    """Whether the disk under the data folder has room."""
    folder = _existing(subject.settings.data_dir)
    free = shutil.disk_usage(folder).free
    text = f"{free // _MIB} MiB are free on the disk of {folder}"
    if free < FREE_BYTES_MIN:
        return failed(f"{text}: make room, or set STREAMSCHED_DATA_DIR to another disk")
    if free < FREE_BYTES_WANTED:
        return warning(f"{text}: a scheduler with millions of jobs needs more; make room")
    return ok(text)


def check_open_files(subject: Subject) -> Verdict:
    """Whether this process, and so a scheduler started like it, may open enough files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    brokers = len(subject.cluster.brokers) if subject.cluster else 1
    return judge_open_files(soft, subject.partitions or 4, brokers)


def judge_open_files(allowed: int, partitions: int, brokers: int) -> Verdict:
    """Whether `allowed` files are enough: a store and two clients for each partition.

    One scheduler may come to own all of them, or to be their standby.
    """
    needed = FILES_OF_PROCESS + partitions * (FILES_PER_PARTITION + 2 * (brokers + 1))
    if allowed == resource.RLIM_INFINITY or allowed >= needed:
        shown = "any number of" if allowed == resource.RLIM_INFINITY else allowed
        return ok(f"{shown} files may be open, about {needed} are needed at most")
    text = (
        f"{allowed} files may be open, and {partitions} partitions may need {needed}: raise the "
        "limit (ulimit -n, LimitNOFILE of systemd, --ulimit nofile of a container)"
    )
    return failed(text) if allowed < FILES_MIN else warning(text)


def data_folders(settings: Settings) -> list[Path]:
    """Where the stores of one scheduler lie, and of several that were started as one command."""
    own = settings.data_dir / settings.app_id
    several = sorted(settings.data_dir.glob(f"process.*/{settings.app_id}"))
    return [own, *several] if own.exists() or not several else several


def _unwritable(folder: Path) -> str:
    """Why `folder` cannot be written, or not be made; empty where it can."""
    existing = _existing(folder)
    if not existing.is_dir():
        return f"{existing} is no folder"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"no right to write to {existing}"
    return "" if not os.statvfs(existing).f_flag & os.ST_RDONLY else "the disk is read-only"


def _is_claimed(folder: Path) -> bool:
    """Whether a process has claimed `folder`; looks without making the lock's file."""
    try:
        with (folder / LOCK_FILE).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
