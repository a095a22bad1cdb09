"""What a benchmark prints: the same fields for all of them, null where one does not apply."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamsched.bench.load import JOB_BYTES, MODE


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """One measured figure, what it is compared with, and under which circumstances."""

    bench: str
    jobs: int
    tenants: int
    jobs_per_second: float | None = None
    baseline_jobs_per_second: float | None = None
    ratio_to_baseline: float | None = None
    """Throughput in parts of the baseline's; more is better."""
    scheduler_cpu_us_per_job: float | None = None
    """CPU of all threads of the scheduler's process."""
    baseline_cpu_us_per_job: float | None = None
    cpu_ratio_to_baseline: float | None = None
    """CPU a job in multiples of the baseline's; less is better."""
    lateness_ms_p50: float | None = None
    """From a job's due time to its receipt by a read_committed consumer."""
    lateness_ms_p99: float | None = None
    lateness_ms_max: float | None = None
    back_to_normal_seconds: float | None = None
    """From an event until jobs fell due of which 99 % came within a second, and went on so."""
    ack_ms_p50: float | None = None
    """From handing a job to a producer to the broker's acknowledgement."""
    ack_ms_p99: float | None = None
    baseline_ack_ms_p50: float | None = None
    """The same on the same broker without a scheduler that reads."""
    baseline_ack_ms_p99: float | None = None
    lateness_ms_p99_alone: float | None = None
    """The same tenants' lateness while nobody did what the figure is about."""
    pending: int | None = None
    """Jobs that were pending when the scheduler was killed, and again when it was ready."""
    seconds: float | None = None
    """From the fence of the first partition until every partition is ready."""
    start_to_ready_seconds: float | None = None
    """From the start of the process; the group's own waiting is in it."""
    records_per_second: float | None = None
    """Pending jobs by `seconds`, or records of the changelog, where those are more."""
    records_replayed: int | None = None
    """Records of the changelog that were read."""
    baseline_records_per_second: float | None = None
    scheduler_rss_mb: float | None = None
    """Resident memory of the scheduler's process in MiB, at the end of the measurement."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """All fields, numbers rounded to what was really measured."""
        return {name: _rounded(value) for name, value in dataclasses.asdict(self).items()}

    def measured(self) -> dict[str, Any]:
        """The figures alone, without circumstances and without what does not apply."""
        return {
            name: value
            for name, value in self.as_json().items()
            if value is not None and name not in {"parameters", "machine"}
        }


def job_parameters(partitions: int) -> dict[str, Any]:
    """What is the same for all benchmarks."""
    return {
        "partitions": partitions,
        "job_bytes": JOB_BYTES,
        "job_mode": MODE,
        "scheduler_processes": 1,
        "brokers": 1,
    }


def ratio(value: float, base: float) -> float | None:
    """`value` in parts of `base`; `None` where there is nothing to divide by."""
    return value / base if base > 0 else None


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The value that `percent` of the ascending `ordered` do not exceed (nearest rank).

    Raises `ValueError` for an empty sequence.
    """
    if not ordered:
        raise ValueError("no values, so there is no percentile of them")
    rank = math.ceil(len(ordered) * percent / 100)
    return ordered[max(rank, 1) - 1]


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return round(value) if abs(value) >= 1_000 else round(value, 2)
