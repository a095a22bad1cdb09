"""Child processes of a benchmark: watched, and never left behind."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from streamsched.bench.child import Child
from streamsched.bench.errors import BenchError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")

SECONDS_MAX = 30.0


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str], Child]:
    """Start a child that executes some Python; `timeit` does so without a module of our own."""
    return lambda code: Child("child", "timeit", ["-n1", "-r1", code], tmp_path)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_child_is_gone_after_the_block(run: Callable[[str], Child]) -> None:
    """It does not end by itself within the test, yet nothing of it is left."""
    with run("import time; time.sleep(60)") as child:
        assert child.running()
        assert _is_there(child.pid)
    assert not child.running()
    assert not _is_there(child.pid)


def test_cpu_is_that_of_the_command(run: Callable[[str], Child]) -> None:
    """A child that computes uses CPU, not its guardian."""
    with run("import time\nwhile True: time.process_time()") as child:
        child.wait_until(lambda: child.cpu_seconds() > 0.3, SECONDS_MAX, "using CPU")
        assert child.rss_mb() > 1


def test_what_a_child_printed_is_told_at_its_end(run: Callable[[str], Child]) -> None:
    """An orderly end returns standard output."""
    with run("print('a result')") as child:
        assert "a result" in child.wait_end(SECONDS_MAX)


def test_a_child_that_fails_is_told_with_its_log(run: Callable[[str], Child]) -> None:
    """The last lines of standard error are part of the sentence."""
    with (
        run("raise SystemExit('it went wrong')") as child,
        pytest.raises(BenchError, match=r"(?s)status 1.*it went wrong"),
    ):
        child.wait_end(SECONDS_MAX)


def test_waiting_ends_with_the_child(run: Callable[[str], Child]) -> None:
    """What a child does not live to do is not waited for."""
    with run("pass") as child, pytest.raises(BenchError, match="ended before flying"):
        child.wait_until(lambda: False, SECONDS_MAX, "flying")


def test_waiting_ends_in_time(run: Callable[[str], Child]) -> None:
    """What does not come is told with the time it was waited for."""
    with (
        run("import time; time.sleep(60)") as child,
        pytest.raises(BenchError, match="flying was waited for in vain"),
    ):
        child.wait_until(lambda: False, 0.1, "flying")


def test_settings_of_the_user_do_not_reach_a_child(
    run: Callable[[str], Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A benchmark measures what it says, whatever is set in the environment."""
    monkeypatch.setenv("STREAMSCHED_APP_ID", "mine")
    with run("import os; print(os.environ.get('STREAMSCHED_APP_ID'), 'seen')") as child:
        assert "None seen" in child.wait_end(SECONDS_MAX)
