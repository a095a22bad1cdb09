"""Schedulers started by the installed program: one, several, and `dev`; how they end."""

import json
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from streamsched.cli.pages import is_ready
from streamsched.kafka.broker_node import free_port
from tests.broker.cluster import await_condition
from tests.broker.program import Run, environment_for, refusal, runner, started


@pytest.fixture
def environment(kafka: str, app_id: str) -> dict[str, str]:
    """Environment of the program in this test."""
    return environment_for(kafka, app_id)


@pytest.fixture
def bare(app_id: str) -> dict[str, str]:
    """The same for commands that have a Kafka of their own."""
    return environment_for("127.0.0.1:1", app_id)


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    """Runs the program to its end in a folder of its own."""
    return runner(environment, tmp_path)


@pytest.fixture
def topics(run: Run) -> None:
    """The topics of this test's application."""
    assert run("topics", "apply", "--partitions", "3").returncode == 0


def _await_ready(*urls: str) -> None:
    """Wait until the schedulers at `urls` answer for all their partitions."""
    for url in urls:
        await_condition(f"{url} is ready", lambda url=url: is_ready(url))


@pytest.mark.usefixtures("topics")
def test_job_goes_all_the_way(run: Run, environment: dict[str, str], tmp_path: Path) -> None:
    """Submitted, shown, listed, dispatched and read, by commands alone; SIGTERM ends it well."""
    with started(["run"], environment, tmp_path) as scheduler:
        _await_ready(f"http://127.0.0.1:{environment['STREAMSCHED_WEB_PORT']}")
        submit = ["jobs", "submit", "--tenant", "acme", "--payload", "hällo"]
        assert run(*submit, "--id", "later", "--delay", "1h").returncode == 0
        assert run(*submit, "--id", "now", "--delay", "0", "--header", "a=b").returncode == 0
        words = ["egress", "tail", "acme", "--from-beginning", "--max", "1", "--timeout", "30"]
        (line,) = run(*words, "-o", "json").stdout.splitlines()
        job = json.loads(line)
        assert (job["id"], job["key"], job["payload"]) == ("now", "now", "hällo")
        assert job["headers"] == [{"name": "a", "value": "b"}]
        shown = json.loads(run("jobs", "show", "acme", "later", "-o", "json").stdout)
        assert (shown["id"], shown["status"]) == ("later", "pending")
        assert "no pending job 'now'" in refusal(run("jobs", "show", "acme", "now"))
        table = run("tenants", "list").stdout.splitlines()
        assert table[1].split()[:7] == ["acme", "ok", "unlimited", "1", "no", "1", "0"]
        scheduler.send_signal(signal.SIGTERM)
        assert scheduler.wait(20) == 0, (tmp_path / "messages").read_text("utf-8")


def _schedulers(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The schedulers under the guardians of `streamsched run --processes` or `dev`."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if (
                child.cmdline()[-2:] == ["streamsched.cli.main", "run"]
                and "-I" not in child.cmdline()
            ):
                found.append(child)
    return found


@pytest.mark.usefixtures("topics")
@pytest.mark.parametrize("end", ["SIGTERM", "death of one", "death of the parent"])
def test_several_processes_live_and_end_together(
    run: Run, environment: dict[str, str], app_id: str, tmp_path: Path, end: str
) -> None:
    """Each has its own folder and pages; one that dies takes the others down with status 1."""
    first = free_port()
    while not _is_free(first + 1):
        first = free_port()
    words = ["run", "--processes", "2", "--web-port", str(first)]
    with started(words, environment, tmp_path) as parent:
        urls = [f"http://127.0.0.1:{port}" for port in (first, first + 1)]
        _await_ready(*urls)
        await_condition(
            "each has a store",
            lambda: all(any((tmp_path / f"data/process.{n}/{app_id}").glob("*")) for n in (0, 1)),
        )
        schedulers = _schedulers(parent)
        assert len(schedulers) == 2
        if end == "death of one":
            schedulers[1].kill()
            assert parent.wait(20) == 1
            assert "of 2 was killed by signal 9" in (tmp_path / "messages").read_text("utf-8")
        elif end == "death of the parent":
            parent.kill()
        else:
            parent.send_signal(signal.SIGTERM)
            assert parent.wait(20) == 0
        _, alive = psutil.wait_procs(schedulers, timeout=20)
        assert alive == []


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_dev_has_everything(bare: dict[str, str], tmp_path: Path) -> None:
    """Kafka, topics and a scheduler come up together, dispatch, and end on Ctrl-C."""
    run = runner(bare, tmp_path)
    web = f"http://127.0.0.1:{bare['STREAMSCHED_WEB_PORT']}"
    with started(["dev", "--port", "0"], bare, tmp_path) as dev:
        assert dev.stdout is not None
        address = dev.stdout.readline().strip()
        _await_ready(web)
        await_condition(
            "it tells how to go on",
            lambda: (
                f"jobs submit --bootstrap-servers {address}"
                in (tmp_path / "messages").read_text("utf-8")
            ),
        )
        here = ("--bootstrap-servers", address)
        job = ["jobs", "submit", "--tenant", "t", "--delay", "0", "--payload", "x", *here]
        assert run(*job).returncode == 0
        words = ["egress", "tail", "t", "--from-beginning", "--max", "1", "--timeout", "30", *here]
        assert run(*words).stdout.endswith("  x\n")
        processes = psutil.Process(dev.pid).children(recursive=True)
        dev.send_signal(signal.SIGINT)
        assert dev.wait(40) == 0, (tmp_path / "messages").read_text("utf-8")
        _, alive = psutil.wait_procs(processes, timeout=20)
        assert alive == []


def test_dev_ends_when_its_scheduler_dies(bare: dict[str, str], tmp_path: Path) -> None:
    """A scheduler that is killed ends the rest with status 1 and a sentence."""
    with started(["dev", "--port", "0"], bare, tmp_path) as dev:
        assert dev.stdout is not None
        dev.stdout.readline()
        await_condition("the scheduler runs", lambda: bool(_schedulers(dev)))
        _schedulers(dev)[0].kill()
        assert dev.wait(40) == 1
        said = (tmp_path / "messages").read_text("utf-8").splitlines()
        assert said[-1] == "streamsched: the scheduler was killed by signal 9"
