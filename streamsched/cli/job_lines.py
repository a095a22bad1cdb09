"""Jobs as JSON lines: one envelope a line, read lazily, so that any number takes little memory."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from streamsched.client import Client, DeliveryError, DeliveryErrors, Job
from streamsched.core.commands import Cancel, Schedule
from streamsched.core.rejection import Reason, Rejection
from streamsched.core.wire import decode

FAULTS_MAX: Final = 1_000
"""Refused lines after which no more are read: the input is likely something else."""

PROGRESS_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedJob(Job):
    """A job that knows the line it came from."""

    line: int


class Fault(NamedTuple):
    """A line that did not become a job or a cancel."""

    line: int
    error: str


@dataclass
class Outcome:
    """What became of all lines; `stopped` is why reading ended early, if it did."""

    submitted: int = 0
    cancelled: int = 0
    faults: list[Fault] = field(default_factory=list)
    stopped: str = ""


class _Line(NamedTuple):
    """A line in the form in which the core reads a Kafka record."""

    value: bytes
    key: bytes | None
    timestamp: int
    offset: int = 0
    headers: tuple[tuple[str, bytes | None], ...] = ()


class JobLines:
    """Reads lines and submits what they say, in their order."""

    def __init__(
        self,
        client: Client,
        tenant: str | None,
        on_fault: Callable[[Fault], None],
        on_progress: Callable[[int], None],
    ) -> None:
        """`tenant` is that of lines without one; `on_progress` gets the lines read so far."""
        self.outcome = Outcome()
        self._client = client
        self._key = None if tenant is None else tenant.encode("utf-8", "surrogateescape")
        self._on_fault = on_fault
        self._on_progress = on_progress

    def submit(self, lines: Iterable[bytes]) -> Outcome:
        """Submit all `lines`; a delay counts from the moment its line is read."""
        try:
            self.outcome.submitted = self._client.submit_many(self._jobs(lines))
        except DeliveryErrors as errors:
            self.outcome.submitted = errors.submitted
            for failure in errors.failures:
                assert isinstance(failure.job, NumberedJob)
                self._refuse(failure.job.line, str(failure.error))
            if len(errors.failures) >= FAULTS_MAX:
                self.outcome.stopped = "too many jobs were not delivered"
        self.outcome.faults.sort()
        return self.outcome

    def _jobs(self, lines: Iterable[bytes]) -> Iterator[Job]:
        told_at = time.monotonic()
        for number, line in enumerate(lines, start=1):
            if time.monotonic() - told_at >= PROGRESS_SECONDS:
                told_at = time.monotonic()
                self._on_progress(number)
            if not line.strip():
                continue
            command = self._read(line)
            if isinstance(command, Rejection):
                self._refuse(number, _text(command))
            elif isinstance(command, Cancel):
                # Records of one producer keep their order, so the jobs before it are there.
                self._cancel(number, command)
            else:
                yield _job(number, command)
            if len(self.outcome.faults) >= FAULTS_MAX:
                self.outcome.stopped = f"{FAULTS_MAX} lines were refused, the last is {number}"
                return

    def _read(self, line: bytes) -> Schedule | Cancel | Rejection:
        now_ms = time.time_ns() // 1_000_000
        return decode(_Line(line, self._key, now_ms), now_ms)

    def _cancel(self, number: int, command: Cancel) -> None:
        try:
            self._client.cancel(command.tenant, command.job_id.decode())
        except (DeliveryError, ValueError) as error:
            self._refuse(number, str(error))
        else:
            self.outcome.cancelled += 1

    def _refuse(self, number: int, error: str) -> None:
        fault = Fault(number, error)
        self.outcome.faults.append(fault)
        self._on_fault(fault)


def _text(rejection: Rejection) -> str:
    if rejection.reason is Reason.MISSING_TENANT:
        return "no tenant: name it in the line, or with --tenant for all lines without one"
    return rejection.message


def _job(number: int, command: Schedule) -> NumberedJob:
    return NumberedJob(
        tenant=command.tenant,
        id=command.job_id.decode(),
        payload=command.payload,
        due_at=command.due_ms,
        expires_at=command.expires_ms or None,
        key=None if command.key is None else command.key.decode(),
        headers=command.headers,
        line=number,
    )
