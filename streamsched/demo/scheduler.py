"""The demo's scheduler: a child process that can be killed and started again."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Final

from streamsched.kafka import guardian

STOP_SECONDS_MAX: Final = 12.0
LOG_TAIL_LINES: Final = 20
_SETTINGS: Final = "STREAMSCHED_"


class DemoScheduler:
    """One `streamsched run` under a guardian, which ends it should the demo itself be killed.

    It runs in `folder`, where its log is, and gets none of the user's own settings.
    """

    def __init__(self, bootstrap_servers: str, app_id: str, folder: Path) -> None:
        """Does not start it."""
        self._folder = folder
        self._log = folder / "scheduler.log"
        self._port = _free_port()
        own = {k: v for k, v in os.environ.items() if not k.startswith(_SETTINGS)}
        self._environment = {
            **own,
            f"{_SETTINGS}BOOTSTRAP_SERVERS": bootstrap_servers,
            f"{_SETTINGS}APP_ID": app_id,
            f"{_SETTINGS}DATA_DIR": str(folder / "data"),
            f"{_SETTINGS}WEB_PORT": str(self._port),
            f"{_SETTINGS}LOG_LEVEL": "warning",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, for the first time or after its end."""
        command = [sys.executable, "-I", "-S", guardian.__file__]
        command += [sys.executable, "-P", "-m", "streamsched.cli.main", "run"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,
            )

    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def is_ready(self) -> bool:
        """Whether all its partitions are recovered."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with suppress(urllib.error.URLError, OSError):
            url = f"http://127.0.0.1:{self._port}/readyz"
            with opener.open(url, timeout=1) as answer:
                return bool(answer.status == 200)
        return False

    def kill(self) -> None:
        """Kill -9, without any farewell; returns when it is gone."""
        if self._process is None:
            return
        # The guardian leads the process group that the scheduler is in.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._forget()

    def stop(self) -> None:
        """End it in order, by force when it takes too long; harmless when repeated."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            self._forget()

    def log_tail(self) -> str:
        """The last lines of its log."""
        with suppress(OSError):
            lines = self._log.read_text("utf-8", "replace").splitlines()
            return "\n".join(lines[-LOG_TAIL_LINES:])
        return ""

    def _forget(self) -> None:
        if self._process is not None:
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._process = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
