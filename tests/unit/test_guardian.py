"""The process between us and a child that must not outlive us."""

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from streamsched.kafka import guardian
from tests.broker.cluster import await_condition

CHILD = "import time\nprint('up', flush=True)\ntime.sleep(60)"


@pytest.fixture
def guarded() -> Iterator["subprocess.Popen[bytes]"]:
    """A guardian with a child that has started."""
    command = [sys.executable, "-I", "-S", guardian.__file__, sys.executable, "-c", CHILD]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"up\n"
    yield process
    process.stdin.close()
    process.stdout.close()
    process.wait(30)


def _child(guarded: "subprocess.Popen[bytes]") -> psutil.Process:
    return psutil.Process(guarded.pid).children()[0]


def _suspend(guarded: "subprocess.Popen[bytes]") -> None:
    child = _child(guarded)
    guarded.send_signal(guardian.SUSPEND)
    await_condition("it is suspended", lambda: child.status() == psutil.STATUS_STOPPED)


def test_a_child_can_be_suspended_and_resumed(guarded: "subprocess.Popen[bytes]") -> None:
    """The guardian goes on meanwhile."""
    _suspend(guarded)
    assert guarded.poll() is None
    guarded.send_signal(guardian.RESUME)
    await_condition("it goes on", lambda: _child(guarded).status() != psutil.STATUS_STOPPED)


def test_a_suspended_child_does_not_outlive_its_parent(guarded: "subprocess.Popen[bytes]") -> None:
    """It hears of the end although it was suspended, long before force would be used."""
    child = _child(guarded)
    _suspend(guarded)
    assert guarded.stdin is not None
    guarded.stdin.close()
    assert guarded.wait(guardian.STOP_SECONDS - 5) == 0xFF & -15
    assert not child.is_running()
