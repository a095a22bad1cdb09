"""The scheduler under test: one `streamsched run` process, watched from outside."""

import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamsched.bench.child import Child
from streamsched.bench.errors import BenchError
from streamsched.core.names import TopicNames
from streamsched.kafka.broker_config import HOST
from streamsched.kafka.broker_node import free_port

READY_SECONDS_MAX: Final = 60.0
ANSWER_SECONDS_MAX: Final = 10.0
SAMPLE_SECONDS: Final = 0.1
JOBS_PER_SECOND_MIN: Final = 1_000
"""Slower than this, something hangs rather than works."""

ACCEPTED: Final = "streamsched_jobs_accepted_total"
DISPATCHED: Final = "streamsched_jobs_dispatched_total"
REJECTED: Final = "streamsched_jobs_rejected_total"
ABORTED: Final = "streamsched_transactions_aborted_total"
BLOCK_CACHE: Final = "streamsched_block_cache_bytes"
CANCELLED: Final = "streamsched_jobs_cancelled_total"
PENDING: Final = "streamsched_jobs_pending"


def data_folder(folder: Path, names: TopicNames) -> Path:
    """Where the scheduler of `names` keeps its stores."""
    return folder / f"state-{names.app_id}"


@dataclass(frozen=True, slots=True)
class Sample:
    """A counter at a moment of the monotonic clock, with the CPU used up to then."""

    at: float
    count: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """What happened between two samples."""

    jobs_per_second: float
    cpu_us_per_job: float

    def __str__(self) -> str:
        return f"{self.jobs_per_second:,.0f} jobs/s, {self.cpu_us_per_job:.1f} us of CPU a job"

    @classmethod
    def between(cls, first: Sample, last: Sample) -> "Stretch":
        """Raises `BenchError` where the two are too close together to divide by."""
        jobs = last.count - first.count
        seconds = last.at - first.at
        if jobs <= 0 or seconds < SAMPLE_SECONDS:
            raise BenchError("the work was done before it could be measured: ask for more jobs")
        return cls(jobs / seconds, (last.cpu_seconds - first.cpu_seconds) * 1e6 / jobs)


class Scheduler(Child):
    """One scheduler process with a data folder of its own; a context manager."""

    def __init__(
        self,
        bootstrap_servers: str,
        names: TopicNames,
        folder: Path,
        log_level: str = "warning",
        member: str = "",
    ) -> None:
        """Starts it; `wait_ready` tells when it works. `member` tells several of them apart."""
        self._port = free_port()
        super().__init__(
            f"scheduler-{names.app_id}{member}",
            "streamsched.cli.main",
            ["run"],
            folder,
            {
                "STREAMSCHED_BOOTSTRAP_SERVERS": bootstrap_servers,
                "STREAMSCHED_APP_ID": names.app_id,
                "STREAMSCHED_DATA_DIR": f"{data_folder(folder, names)}{member}",
                "STREAMSCHED_WEB_HOST": HOST,
                "STREAMSCHED_WEB_PORT": str(self._port),
                "STREAMSCHED_LOG_LEVEL": log_level,
                "STREAMSCHED_LOG_FORMAT": "json",
            },
        )

    def wait_ready(self) -> None:
        """Wait until every partition works. Raises `BenchError`."""
        self.wait_until(self._is_ready, READY_SECONDS_MAX, "being ready")

    def counter(self, name: str) -> int:
        """A metric, summed over its labels; 0 where the page does not answer or know it."""
        total = 0.0
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            for line in self._page("metrics").splitlines():
                if line.startswith((f"{name} ", f"{name}{{")):
                    total += float(line.rpartition(" ")[2])
        return int(total)

    def sample(self, name: str) -> Sample:
        """A counter now."""
        count = self.counter(name)
        return Sample(time.monotonic(), count, self.cpu_seconds())

    def wait_count(self, name: str, count: int) -> None:
        """Wait until a counter has reached `count`, without asking often. Raises `BenchError`."""
        seconds_max = READY_SECONDS_MAX + count / JOBS_PER_SECOND_MIN
        found = 0

        def is_so() -> bool:
            nonlocal found
            found = self.counter(name)
            if found < count:
                time.sleep(0.2)
            return found >= count

        try:
            self.wait_until(is_so, seconds_max, f"{name} = {count}")
        except BenchError as error:
            raise BenchError(f"{name} came to {found} of {count}: {error}") from error

    def measure(self, name: str, start: int, end: int) -> Stretch:
        """How fast a counter goes up, from the first sample above `start` to `end`.

        Raises `BenchError` where it does not get there.
        """
        first: Sample | None = None
        latest = Sample(0.0, 0, 0.0)

        def is_so() -> bool:
            nonlocal first, latest
            latest = self.sample(name)
            if first is None and latest.count > start:
                first = latest
            if latest.count < end:
                time.sleep(SAMPLE_SECONDS)
            return latest.count >= end

        seconds_max = READY_SECONDS_MAX + (end - start) / JOBS_PER_SECOND_MIN
        try:
            self.wait_until(is_so, seconds_max, f"{name} = {end}")
        except BenchError as error:
            raise BenchError(f"{name} came to {latest.count} of {end}: {error}") from error
        assert first is not None
        return Stretch.between(first, latest)

    def check_well(self) -> None:
        """Raise `BenchError` if something happened that makes the figures worthless."""
        rejected = self.counter(REJECTED)
        if rejected:
            raise BenchError(f"{rejected} jobs of the benchmark were rejected; {self._told()}")

    def _is_ready(self) -> bool:
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            self._page("readyz")
            return True
        return False

    def _page(self, name: str) -> str:
        url = f"http://{HOST}:{self._port}/{name}"
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS_MAX) as answer:
            return str(answer.read().decode())
