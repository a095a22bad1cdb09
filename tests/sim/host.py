"""What outlives a process: the disk and the clock of its host."""

import random
from collections.abc import Callable

from tests.sim.disk import Disk

START_MS = 1_800_000_000_000
"""True time when a simulation begins."""


class Clock:
    """The wall clock of a host: it drifts, and is set forward and back."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.offset_ms = 0.0
        self.drift = 0.0

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        seconds = self._now()
        return START_MS + int(seconds * 1000 * (1 + self.drift) + self.offset_ms)

    def error_ms(self) -> float:
        """How far it is ahead of true time."""
        return self._now() * 1000 * self.drift + self.offset_ms


class Host:
    """What outlives a process: its disk and its clock."""

    def __init__(self, number: int, now: Callable[[], float], rng: random.Random) -> None:
        self.number = number
        self.disk = Disk(rng)
        self.clock = Clock(now)
