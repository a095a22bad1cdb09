"""Child processes that live and end together with this one."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from streamsched.kafka import guardian

if TYPE_CHECKING:
    from streamsched.settings import Settings

STOP_SECONDS_MAX: Final = 12.0
"""A scheduler ends within 9 s of SIGTERM, whatever hangs in it."""
_SIGNALS_FROM: Final = 256 - signal.NSIG


@dataclass(frozen=True, slots=True)
class Ended:
    """Something that should go on has ended by itself."""

    name: str
    status: int

    def __str__(self) -> str:
        """What happened, as the beginning of a sentence."""
        # The guardian passes on the death by a signal as the low byte of its negative number.
        if self.status > _SIGNALS_FROM:
            return f"{self.name} was killed by signal {256 - self.status}"
        return f"{self.name} ended with status {self.status}"


class Children:
    """Runs our own commands as child processes, each under a guardian.

    A child gets SIGTERM when this process ends in any way, kill -9 included, and Ctrl-C reaches
    only this process, which then stops the children in its own order.
    """

    def __init__(self) -> None:
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start `streamsched ARGUMENTS`; `environment` goes over this process's own."""
        command = [sys.executable, "-I", "-S", guardian.__file__]
        command += [sys.executable, "-P", "-m", "streamsched.cli.main", *arguments]
        child = subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdin=subprocess.PIPE,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        self._running[name] = child
        threading.Thread(target=self._watch, args=(name, child), daemon=True).start()

    def report(self, ended: Ended) -> None:
        """Let `wait` return `ended`; from any thread, for what is watched elsewhere."""
        self._ended.put(ended)

    def wait(self, seconds: float | None = None) -> Ended | None:
        """The next that ends by itself; `None` where none did within `seconds`."""
        try:
            return self._ended.get(timeout=seconds)
        except queue.Empty:
            return None

    def stop(self) -> bool:
        """End all of them in order, at the same time; whether each ended well and in time."""
        well = True
        for child in self._running.values():
            child.terminate()
        deadline = time.monotonic() + STOP_SECONDS_MAX
        for child in self._running.values():
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                # The guardian leads the group that its command is in.
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            well = well and child.returncode == 0
            if child.stdin is not None:
                child.stdin.close()
        self._running.clear()
        return well

    def _watch(self, name: str, child: subprocess.Popen[bytes]) -> None:
        self._ended.put(Ended(name, child.wait()))


def settings_environment(settings: "Settings") -> dict[str, str]:
    """`settings` as environment variables of a child; it finds `kafka` where this process did."""
    from streamsched.settings import ENV_PREFIX  # noqa: PLC0415 - pydantic is heavy

    return {
        f"{ENV_PREFIX}{name.upper()}": str(value)
        for name, value in settings.model_dump(exclude={"kafka"}, exclude_none=True).items()
    }
