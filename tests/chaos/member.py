"""A scheduler with what chaos needs beside starting and killing it."""

import signal
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from tests.broker.scheduler_process import SchedulerProcess


class Member(SchedulerProcess):
    """One scheduler process, its log and its state."""

    name = ""

    @property
    def state_folder(self) -> Path:
        """Where its stores are, one folder a partition."""
        return self.folder / "data" / self._environment["STREAMSCHED_APP_ID"]

    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def use_folder_of(self, other: "Member") -> None:
        """Keep its state where another one does."""
        self._environment["STREAMSCHED_DATA_DIR"] = str(other.folder / "data")

    def suspend(self) -> None:
        """SIGSTOP of the scheduler, but not of the process that bounds its life."""
        for process in self._own_processes():
            process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        for process in self._own_processes():
            process.send_signal(signal.SIGCONT)

    def ready_partitions(self) -> set[int]:
        """The partitions that it works on, as its page tells; none where it does not answer."""
        url = f"http://127.0.0.1:{self.port}/readyz?verbose"
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                text = response.read().decode()
        except (urllib.error.URLError, OSError):
            return set()
        words = [line.split() for line in text.splitlines()]
        return {int(w[1].rstrip(":")) for w in words if w[0] == "partition" and w[-1] == "ready"}

    def log_size(self) -> int:
        """Where its log ends now."""
        return len(self.whole_log())

    def _own_processes(self) -> list[psutil.Process]:
        if self._process is None or self._process.poll() is not None:
            return []
        found: list[psutil.Process] = psutil.Process(self._process.pid).children(recursive=True)
        return found
