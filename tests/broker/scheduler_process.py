"""A scheduler as a process of its own, to be killed and started again by tests."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

READY_SECONDS_MAX = 60.0
LIFE_SECONDS_MAX = 600


class SchedulerProcess:
    """One `streamsched run` with its own data folder and web port."""

    def __init__(self, kafka: str, app_id: str, folder: Path, **settings: str) -> None:
        """Does not start it. `settings` are further ones, in lower case."""
        self.folder = folder
        self.port = _free_port()
        self._log = folder / "scheduler.log"
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("STREAMSCHED_")},
            "STREAMSCHED_BOOTSTRAP_SERVERS": kafka,
            "STREAMSCHED_APP_ID": app_id,
            "STREAMSCHED_DATA_DIR": str(folder / "data"),
            "STREAMSCHED_WEB_PORT": str(self.port),
            "STREAMSCHED_LOG_FORMAT": "json",
            **{f"STREAMSCHED_{name.upper()}": value for name, value in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; its life is bounded, should the test not end it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["timeout", "-s", "KILL", str(LIFE_SECONDS_MAX), sys.executable]
                + ["-m", "streamsched.cli.main", "run"],
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
            )

    def wait_ready(self) -> None:
        """Wait until all its partitions are recovered."""
        wait_until(self.is_ready, READY_SECONDS_MAX, self.log)

    def is_ready(self) -> bool:
        """Whether `/readyz` says so."""
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"the scheduler ended by itself:\n{self.log()}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as r:
                return bool(r.status == 200)
        return False

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels; 0 where it is not there."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as r:
            lines = r.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def kill(self) -> None:
        """Kill -9, without any farewell."""
        self._signal(signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM, and the exit status it leads to."""
        return self._signal(signal.SIGTERM)

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the scheduler itself."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signum)

    def _signal(self, signum: signal.Signals) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            os.killpg(self._process.pid, signum)
        return self._process.wait(30)

    def log(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-6_000:]


def wait_until(
    condition: Callable[[], bool], seconds: float, tell: Callable[[], str] = lambda: ""
) -> None:
    """Wait for a condition, with a deadline that fails the test."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"nothing within {seconds:.0f} s\n{tell()}")
        time.sleep(0.02)


@contextlib.contextmanager
def running(process: SchedulerProcess) -> Iterator[SchedulerProcess]:
    """Start it, wait until it is ready, and kill it in the end."""
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
