"""Child processes of a benchmark: each ends when the benchmark ends, however that happens."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from streamsched.bench.errors import BenchError
from streamsched.kafka import guardian
from streamsched.settings import ENV_PREFIX

STOP_SECONDS_MAX: Final = 20.0
START_SECONDS_MAX: Final = 5.0
LOG_TAIL_LINES: Final = 15

_PROC: Final = Path("/proc")
_MIB: Final = 1024 * 1024


class Child:
    """One Python module as a process of its own, under a guardian; a context manager.

    Its standard output and standard error go into files in `folder`, which is also where it
    runs, so that no `streamsched.toml` of the user gets into the figures.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Starts it. Raises `BenchError` if it ends at once."""
        self.name = name
        self._output = folder / f"{name}.out"
        self._log = folder / f"{name}.log"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX)}
        command = [sys.executable, "-I", "-S", guardian.__file__]
        command += [sys.executable, "-P", "-m", module, *arguments]
        with self._output.open("wb") as output, self._log.open("wb") as log:
            self._guardian = subprocess.Popen(  # noqa: S603 - our own command
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=log,
                cwd=folder,
                env={**inherited, **(environment or {})},
                start_new_session=True,
            )
        self.pid = self._pid_of_command()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._guardian.poll() is None

    def stop(self) -> None:
        """End it with SIGTERM, by force when it takes too long; harmless when it has ended."""
        if self._guardian.stdin is not None:
            self._guardian.stdin.close()
        try:
            self._guardian.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            # The guardian leads the process group that its command is in.
            with suppress(ProcessLookupError):
                os.killpg(self._guardian.pid, signal.SIGKILL)
            self._guardian.wait()

    def kill(self) -> None:
        """Kill -9, and wait until it is gone; harmless when it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def terminate(self) -> None:
        """SIGTERM, and wait until it has ended in its own time; harmless when it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._guardian.wait(STOP_SECONDS_MAX)
        self.stop()

    def log(self) -> str:
        """What it has written to its log so far."""
        return self._log.read_text("utf-8", "replace")

    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text("utf-8", "replace")

    def wait_until(self, is_so: Callable[[], bool], seconds_max: float, what: str) -> None:
        """Wait for `is_so()`. Raises `BenchError` where it does not come, or the child ends."""
        deadline = time.monotonic() + seconds_max
        while not is_so():
            if not self.running():
                raise BenchError(f"{self.name} ended before {what}; {self._told()}")
            if time.monotonic() > deadline:
                raise BenchError(
                    f"{self.name}: {what} was waited for in vain for {seconds_max:.0f} s; "
                    f"{self._told()}"
                )
            time.sleep(0.02)

    def wait_end(self, seconds_max: float) -> str:
        """Wait until it ends well; what it printed. Raises `BenchError` for any other end."""
        try:
            status = self._guardian.wait(seconds_max)
        except subprocess.TimeoutExpired as error:
            raise BenchError(
                f"{self.name} did not end within {seconds_max:.0f} s; {self._told()}"
            ) from error
        if status:
            raise BenchError(f"{self.name} ended with status {status}; {self._told()}")
        return self.output()

    def cpu_seconds(self) -> float:
        """CPU time that all threads of the process have used, user and system.

        Raises `BenchError` where it has ended.
        """
        try:
            fields = _stat_fields(self.pid)
        except OSError as error:
            raise BenchError(f"{self.name} ended while it was measured; {self._told()}") from error
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float:
        """Resident memory of the process, in MiB. Raises `BenchError` where it has ended."""
        with suppress(OSError):
            for line in (_PROC / str(self.pid) / "status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024 / _MIB
        raise BenchError(f"{self.name} ended while it was measured; {self._told()}")

    def _pid_of_command(self) -> int:
        if not _PROC.joinpath("self", "stat").exists():
            raise BenchError("CPU and memory are read from /proc: run benchmarks on Linux")
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self.running():
            for folder in _PROC.iterdir():
                with suppress(OSError, IndexError):
                    if folder.name.isdigit() and int(_stat_fields(folder.name)[1]) == (
                        self._guardian.pid
                    ):
                        return int(folder.name)
            time.sleep(0.005)
        raise BenchError(f"{self.name} did not start; {self._told()}")

    def _told(self) -> str:
        lines = self.log().splitlines()[-LOG_TAIL_LINES:]
        return "the end of its log:\n" + "\n".join(lines) if lines else "it said nothing"


def _stat_fields(pid: int | str) -> list[str]:
    """The fields of /proc/PID/stat from the state on; the name before may hold blanks."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
