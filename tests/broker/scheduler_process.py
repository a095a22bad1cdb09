"""A scheduler as a process of its own, to be killed and started again by tests."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.broker.cluster import await_condition
from tests.connecting import client_options, settings_variables

READY_SECONDS_MAX = 60.0
LIFE_SECONDS_MAX = 600

LogLine = Mapping[str, Any]


class SchedulerProcess:
    """One `streamsched run` with its own data folder and web port."""

    def __init__(
        self,
        kafka: str,
        app_id: str,
        folder: Path,
        *,
        life_seconds: int = LIFE_SECONDS_MAX,
        options: Mapping[str, str] | None = None,
        **settings: str,
    ) -> None:
        """Does not start it. `settings` are further ones, in lower case.

        `options` are those of its Kafka clients, where they are not the test's own.
        """
        self.folder = folder
        self._kafka = kafka
        self._app_id = app_id
        self.options = options or client_options(kafka)
        self._settings = settings
        self._life_seconds = life_seconds
        self.port = _free_port()
        self._log = folder / "scheduler.log"
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("STREAMSCHED_")},
            **settings_variables(self.options),
            "STREAMSCHED_APP_ID": app_id,
            "STREAMSCHED_DATA_DIR": str(folder / "data"),
            "STREAMSCHED_WEB_PORT": str(self.port),
            "STREAMSCHED_LOG_FORMAT": "json",
            **{f"STREAMSCHED_{name.upper()}": value for name, value in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    def another(self, folder: Path) -> "SchedulerProcess":
        """One more of the same installation, with a folder and a port of its own."""
        return SchedulerProcess(
            *(self._kafka, self._app_id, folder),
            life_seconds=self._life_seconds,
            options=self.options,
            **self._settings,
        )

    def start(self) -> None:
        """Start it; its life is bounded, should the test not end it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("timeout", "-s", "KILL", str(self._life_seconds)),
                    *(sys.executable, "-m", "streamsched.cli.main", "run"),
                ],
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
            )

    def wait_ready(self) -> None:
        """Wait until all its partitions are recovered."""
        await_condition("the scheduler is ready", self.is_ready, READY_SECONDS_MAX, self.log)

    def is_ready(self) -> bool:
        """Whether `/readyz` says so."""
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"the scheduler ended by itself:\n{self.log()}")
        url = f"http://127.0.0.1:{self.port}/readyz"
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(url, timeout=5) as response,
        ):
            return bool(response.status == 200)
        return False

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels; 0 where it is not there."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as r:
            lines = r.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def await_metric(self, name: str, value: float) -> None:
        """Wait until the sum of a metric over its labels is `value`."""
        await_condition(f"{name} is {value}", lambda: self.metric(name) == value, 30, self.log)

    def text(self, path: str) -> str:
        """What one of its pages says, whatever the status."""
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()

    def text_if_any(self, path: str) -> str:
        """As `text`; empty while nobody listens."""
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            return self.text(path)
        return ""

    def page(self, path: str) -> dict[str, Any]:
        """The JSON of one of its pages, whatever the status."""
        found: dict[str, Any] = json.loads(self.text(path))
        return found

    def tenant(self, name: str) -> dict[str, Any]:
        """What `GET /tenants` says of one tenant; empty where it does not know it."""
        rows = self.page("/tenants")["tenants"]
        return next((row for row in rows if row["tenant"] == name), {})

    def await_tenant(self, name: str, **fields: Any) -> dict[str, Any]:
        """Wait until `GET /tenants` shows these `fields` of a tenant; returns all of them."""
        last: dict[str, Any] = {}

        def is_so() -> bool:
            last.clear()
            last.update(self.tenant(name))
            return bool(last) and fields.items() <= last.items()

        await_condition(f"tenant {name} shows {fields}", is_so, 60, lambda: f"{last}\n{self.log()}")
        return last

    def wait_ended(self, seconds: float = READY_SECONDS_MAX) -> int:
        """Wait until it ends by itself; its exit status."""
        assert self._process is not None
        return self._process.wait(seconds)

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
        return self.whole_log()[-6_000:]

    def whole_log(self) -> str:
        """All that it wrote, over all its starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def log_lines(self, since: int = 0) -> list[LogLine]:
        """The lines of its log from a size on."""
        found: list[LogLine] = []
        for line in self.whole_log()[since:].splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict):
                    found.append(entry)
        return found


def events_named(lines: Sequence[LogLine], name: str) -> list[LogLine]:
    """The log lines of one kind."""
    return [line for line in lines if line.get("event") == name]


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
