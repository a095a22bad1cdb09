"""The demo as a user runs it: it starts everything, judges, and leaves nothing behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from streamsched.kafka import jars
from tests.broker.cluster import await_condition

SECONDS = 30
TIMED = {"rate used", "change of rate", "lateness", "recovery"}
"""Promises about speed: a machine that is busy with other tests may be too slow for them."""

pytestmark = [pytest.mark.serial, pytest.mark.timeout(240)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder in which the demo makes its temporary one."""
    jars.broker_classpath()
    made = tmp_path / "tmp"
    made.mkdir()
    return made


@contextlib.contextmanager
def demo(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running demo; its output is in files beside `folder`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("STREAMSCHED_")}
    with (folder.parent / "out").open("wb") as out, (folder.parent / "err").open("wb") as err:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "streamsched.cli.main", "demo"),
                *("--seconds", str(SECONDS), "-o", "json"),
            ],
            env={**environment, "TMPDIR": str(folder)},
            stdout=out,
            stderr=err,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def told(folder: Path) -> str:
    """What the demo said to people."""
    return (folder.parent / "err").read_text()


def leftovers(folder: Path) -> list[str]:
    """Processes that work in the folder, and files in it."""
    processes = [
        str(process)
        for process in psutil.process_iter(["cmdline", "cwd"])
        if str(folder) in " ".join([*(process.info["cmdline"] or ()), process.info["cwd"] or ""])
    ]
    return processes + [str(path) for path in folder.iterdir()]


def test_the_demo_judges_every_promise_and_leaves_nothing_behind(folder: Path) -> None:
    """Traffic, a kill and a restart; each promise has a verdict, with figures."""
    with demo(folder) as process:
        status = process.wait(200)
    print(told(folder))
    found: dict[str, Any] = json.loads((folder.parent / "out").read_text())
    promises = {one["promise"]: one for one in found["promises"]}
    assert TIMED | {"once", "time", "identity", "rejected", "rate", "order"} <= set(promises)
    broken = {name: one["broken"] for name, one in promises.items() if not one["kept"]}
    assert not broken.keys() - TIMED
    assert status == (1 if broken else 0)
    assert found["dispatched"] > 20_000
    for figure in ("expired", "replaced", "cancelled", "dispatched"):
        assert f" {figure}" in promises["once"]["checked"]
    assert "kill -9" in promises["recovery"]["checked"]
    assert leftovers(folder) == []


def test_ctrl_c_ends_the_demo_and_leaves_nothing_behind(folder: Path) -> None:
    """In the middle of traffic."""
    with demo(folder) as process:
        await_condition(
            "traffic", lambda: f"of {SECONDS} s" in told(folder) or process.poll() is not None, 90
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert "Traceback" not in told(folder)
    assert leftovers(folder) == []
