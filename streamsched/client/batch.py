"""Submitting many jobs in bounded memory: chunk by chunk, each waited for."""

import threading
from concurrent.futures import Future
from typing import Final

from streamsched.client.delivery import DeliveryError, DeliveryErrors, FailedJob, OnDone
from streamsched.client.jobs import Job, Record, Submitted, job_record, now_ms
from streamsched.core.names import TopicNames
from streamsched.core.wire import record_bytes

CHUNK_JOBS_MAX: Final = 2_000
CHUNK_BYTES_MAX: Final = 16 * 1024 * 1024
FAILURES_MAX: Final = 1_000
"""Failures after which no more jobs are taken."""


class Batch:
    """The bookkeeping of one `submit_many`.

    The client feeds it jobs one by one; `is_full` says when to wait for the chunk. It does no
    I/O, so that the blocking client and the asyncio one can share it.
    """

    def __init__(self) -> None:
        self.taken = 0
        self._failures: list[FailedJob] = []
        self._lock = threading.Lock()
        self.open_chunk()

    def open_chunk(self) -> None:
        """Begin a chunk, at the start or after the future of `close_chunk` has ended."""
        self._jobs = 0
        self._bytes = 0
        # One more than the records under way, until the chunk is closed for new ones.
        self._pending = 1
        self._done: Future[None] = Future()
        self._done.set_running_or_notify_cancel()

    @property
    def is_full(self) -> bool:
        """Whether the chunk must be waited for before the next job is taken."""
        return self._jobs >= CHUNK_JOBS_MAX or self._bytes >= CHUNK_BYTES_MAX

    @property
    def is_hopeless(self) -> bool:
        """Whether so many jobs failed that no more should be taken."""
        return len(self._failures) >= FAILURES_MAX

    def refuse(self, job: Job, error: ValueError) -> None:
        """Take a job that is invalid; it is not sent."""
        self._failures.append(FailedJob(self.taken, job, error))
        self.taken += 1

    def add(self, job: Job, size_bytes: int) -> OnDone:
        """Take a job that is about to be sent; returns what its delivery report must call."""
        index = self.taken
        self.taken += 1
        self._jobs += 1
        self._bytes += size_bytes
        with self._lock:
            self._pending += 1

        def on_done(result: Submitted | DeliveryError) -> None:
            if isinstance(result, DeliveryError):
                self._failures.append(FailedJob(index, job, result))
            self._count_down()

        return on_done

    def close_chunk(self) -> "Future[None]":
        """A future that ends with the last delivery report of this chunk."""
        done = self._done
        self._count_down()
        return done

    def outcome(self) -> int:
        """The number of jobs submitted. Raises `DeliveryErrors` where any failed."""
        if self._failures:
            raise DeliveryErrors(self._failures, self.taken)
        return self.taken

    def _count_down(self) -> None:
        with self._lock:
            self._pending -= 1
            ended = self._pending == 0
        if ended:
            self._done.set_result(None)


def prepare(job: Job, batch: Batch, names: TopicNames) -> tuple[Record, OnDone] | None:
    """What to send for `job`, taken into `batch`; `None` where the job is invalid."""
    try:
        record = job_record(job, names, now_ms())
    except ValueError as error:
        batch.refuse(job, error)
        return None
    return record, batch.add(job, record_bytes(record))
