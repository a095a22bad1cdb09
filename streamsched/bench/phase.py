"""One measured stretch of work: jobs done, time passed, CPU used by all threads of the process."""

import time
from dataclasses import dataclass
from typing import Any, Final

JOBS_PER_SECOND_MIN: Final = 2_000
"""Slower than this, something hangs rather than works."""

SECONDS_MIN: Final = 60.0


@dataclass(slots=True)
class Phase:
    """Counts to `jobs`; the clocks run from the first `begin` to the latest `add`."""

    jobs: int
    done: int = 0
    _began: float | None = None
    _ended: float = 0.0
    _cpu_began: float = 0.0
    _cpu_ended: float = 0.0

    def begin(self) -> None:
        """Start the clocks, unless they run already."""
        if self._began is None:
            self._cpu_began = time.process_time()
            self._began = time.perf_counter()

    def add(self, jobs: int) -> None:
        """Note that `jobs` more are done."""
        self.done += jobs
        self._ended = time.perf_counter()
        self._cpu_ended = time.process_time()

    def is_done(self) -> bool:
        """Whether all jobs are done."""
        return self.done >= self.jobs

    def seconds_max(self) -> float:
        """How long to wait for the end before giving up."""
        return SECONDS_MIN + self.jobs / JOBS_PER_SECOND_MIN

    @property
    def jobs_per_second(self) -> float:
        """Throughput over the measured time."""
        seconds = self._ended - self._began if self._began is not None else 0.0
        return self.done / seconds if seconds > 0 else 0.0

    @property
    def cpu_us_per_job(self) -> float:
        """CPU of all threads of this process for each job, in microseconds."""
        return (self._cpu_ended - self._cpu_began) * 1e6 / self.done if self.done else 0.0

    def figures(self) -> dict[str, Any]:
        """What is reported."""
        return {
            "jobs": self.done,
            "jobs_per_second": round(self.jobs_per_second),
            "cpu_us_per_job": round(self.cpu_us_per_job, 2),
        }
