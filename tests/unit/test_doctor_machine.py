"""What the doctor says of data folder, disk, open files and clocks."""

import os
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from streamsched.doctor import machine
from streamsched.doctor.checkup import Outcome, Subject
from streamsched.doctor.ingress import Look, judge_clock
from streamsched.doctor.machine import check_data_folder, check_disk, judge_open_files
from streamsched.settings import Settings
from streamsched.store.folder import FORMAT_FILE, FORMAT_VERSION, claim, prepare

NOW_MS = 1_800_000_000_000


def _subject(folder: Path) -> Subject:
    return Subject(Settings(app_id="x", data_dir=folder))


def test_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A folder that a scheduler could make is fine, and stays unmade."""
    verdict = check_data_folder(_subject(tmp_path / "data"))
    assert verdict.outcome is Outcome.OK
    assert list(tmp_path.iterdir()) == []


def test_file_in_the_way_of_the_folder(tmp_path: Path) -> None:
    """What is no folder fails with the setting to change."""
    (tmp_path / "data").write_text("")
    verdict = check_data_folder(_subject(tmp_path / "data"))
    assert verdict.outcome is Outcome.FAILED
    assert "is no folder" in verdict.sentence
    assert "STREAMSCHED_DATA_DIR" in verdict.sentence


def test_folder_without_the_right_to_write(tmp_path: Path) -> None:
    """A folder that is somebody else's fails before anything is stored."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "x").mkdir(mode=0o500)
    verdict = check_data_folder(_subject(tmp_path))
    assert verdict.outcome is Outcome.FAILED
    assert "no right to write" in verdict.sentence


def test_folder_in_use_is_told_and_claimable_again(tmp_path: Path) -> None:
    """A running scheduler's claim is seen, and looking at it leaves nothing behind."""
    folder = tmp_path / "x"
    with claim(folder):
        verdict = check_data_folder(_subject(tmp_path))
        assert verdict.outcome is Outcome.OK
        assert "is in use by a process" in verdict.sentence
    assert "in use" not in check_data_folder(_subject(tmp_path)).sentence
    with claim(folder):
        pass


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (str(FORMAT_VERSION + 1), "run the newer version"),
        ("0", "which never existed"),
        ("ten", "unreadable file"),
    ],
)
def test_store_of_another_version(tmp_path: Path, text: str, said: str) -> None:
    """A store that this version cannot read is named, whichever process's it is."""
    for folder in (tmp_path / "x" / "0", tmp_path / "process.1" / "x" / "3"):
        prepare(folder)
        assert check_data_folder(_subject(tmp_path)).outcome is Outcome.OK
        (folder / FORMAT_FILE).write_text(text)
        verdict = check_data_folder(_subject(tmp_path))
        assert verdict.outcome is Outcome.FAILED
        assert str(folder) in verdict.sentence
        assert said in verdict.sentence
        shutil.rmtree(folder)


def test_database_that_is_not_ours(tmp_path: Path) -> None:
    """A database beside ours, in a store's place, is refused and left alone."""
    store = tmp_path / "x" / "0"
    prepare(store)
    (store / "CURRENT").write_text("")
    (store / FORMAT_FILE).unlink()
    prepare_again = check_data_folder(_subject(tmp_path))
    assert prepare_again.outcome is Outcome.FAILED
    assert "not streamsched's" in prepare_again.sentence


@pytest.mark.parametrize(
    ("free_mib", "outcome"),
    [(100, Outcome.FAILED), (1_000, Outcome.WARNING), (100_000, Outcome.OK)],
)
def test_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_mib: int, outcome: Outcome
) -> None:
    """A disk that is nearly full fails, one that is small is told of."""
    free = SimpleNamespace(free=free_mib * 1024 * 1024)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    assert check_disk(_subject(tmp_path / "not" / "there")).outcome is outcome


@pytest.mark.parametrize(
    ("allowed", "partitions", "brokers", "outcome"),
    [
        (1_024, 4, 1, Outcome.OK),
        (1_024, 8, 3, Outcome.WARNING),
        (128, 1, 1, Outcome.FAILED),
        (resource.RLIM_INFINITY, 1_000, 9, Outcome.OK),
    ],
)
def test_open_files(allowed: int, partitions: int, brokers: int, outcome: Outcome) -> None:
    """The limit is set against what all partitions and brokers may need."""
    verdict = judge_open_files(allowed, partitions, brokers)
    assert verdict.outcome is outcome
    assert (outcome is Outcome.OK) or "ulimit" in verdict.sentence


def test_open_files_of_this_process() -> None:
    """The limit that is in force here is the one that is judged."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (machine.FILES_MIN - 1, hard))
    try:
        verdict = machine.check_open_files(Subject(Settings()))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert verdict.outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("looks", "outcome", "said"),
    [
        ([], Outcome.OK, "no record is there"),
        ([Look(NOW_MS, -1)], Outcome.OK, "no record is there"),
        ([Look(NOW_MS, NOW_MS - 9_000_000)], Outcome.OK, "more can be seen only"),
        ([Look(NOW_MS, NOW_MS + 1_500)], Outcome.WARNING, "1.5 s ahead"),
        ([Look(NOW_MS, NOW_MS + 60_000)], Outcome.FAILED, "60.0 s ahead"),
        ([Look(NOW_MS, 5), Look(NOW_MS + 100, NOW_MS + 40)], Outcome.OK, "agree"),
        ([Look(NOW_MS, 5), Look(NOW_MS + 100, NOW_MS - 3_000)], Outcome.WARNING, "3.0 s behind"),
        ([Look(NOW_MS, 5), Look(NOW_MS + 100, NOW_MS - 70_000)], Outcome.FAILED, "70.0 s behind"),
        # What was written long before the first look says nothing.
        ([Look(NOW_MS, 5), Look(NOW_MS + 100, 5)], Outcome.OK, "more can be seen only"),
    ],
)
def test_clocks(looks: list[Look], outcome: Outcome, said: str) -> None:
    """A clock that is off either way is told; where nothing is written, that is told."""
    verdict = judge_clock(looks)
    assert verdict.outcome is outcome
    assert said in verdict.sentence
