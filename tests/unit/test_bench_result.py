"""What benchmarks print, and how figures are made of measurements."""

import pytest

from streamsched.bench.bare_replay import Replayed
from streamsched.bench.baseline import Figures, better, compared
from streamsched.bench.errors import BenchError
from streamsched.bench.load import Load
from streamsched.bench.phase import Phase
from streamsched.bench.recovery import Recovery
from streamsched.bench.recovery import compared as recovered
from streamsched.bench.result import BenchResult, percentile, ratio
from streamsched.bench.scheduler import Sample, Stretch

FIELDS = {
    "jobs_per_second",
    "baseline_jobs_per_second",
    "ratio_to_baseline",
    "scheduler_cpu_us_per_job",
    "baseline_cpu_us_per_job",
    "lateness_ms_p50",
    "lateness_ms_p99",
    "lateness_ms_max",
    "ack_ms_p99",
    "scheduler_rss_mb",
    "pending",
    "seconds",
    "start_to_ready_seconds",
    "records_per_second",
    "records_replayed",
    "baseline_records_per_second",
}
"""Names that others read benchmarks by."""


def test_every_result_has_every_field() -> None:
    """A field that does not apply is null, not missing."""
    printed = BenchResult(bench="b", jobs=1, tenants=1).as_json()
    assert printed.keys() >= FIELDS
    assert all(printed[name] is None for name in FIELDS)


def test_a_table_shows_only_what_was_measured() -> None:
    """Fields that do not apply are left out for people."""
    assert set(BenchResult(bench="b", jobs=1, tenants=1, ack_ms_p99=2.0).measured()) == {
        "bench",
        "jobs",
        "tenants",
        "ack_ms_p99",
    }


def test_figures_are_rounded_to_what_was_measured() -> None:
    """Large numbers lose their fraction, small ones keep two digits."""
    printed = BenchResult(
        bench="b", jobs=1, tenants=1, jobs_per_second=12345.678, lateness_ms_p50=3.14159
    ).as_json()
    assert printed["jobs_per_second"] == 12346
    assert printed["lateness_ms_p50"] == 3.14


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 50), (99, 99), (99.5, 100), (100, 100), (0, 1), (1, 1)]
)
def test_percentile_is_a_value_that_was_measured(percent: float, expected: float) -> None:
    """By nearest rank: of 1 to 100, the p99 is 99."""
    assert percentile([float(n) for n in range(1, 101)], percent) == expected


def test_percentile_of_nothing_is_refused() -> None:
    """No values have no percentile, rather than one of 0."""
    with pytest.raises(ValueError, match="no values"):
        percentile([], 99)


def test_ratio_to_nothing_is_null() -> None:
    """A baseline of 0 gives no ratio instead of an error."""
    assert ratio(1.0, 0.0) is None
    assert ratio(1.0, 4.0) == 0.25


def test_the_scheduler_is_compared_with_the_better_baseline() -> None:
    """Of two runs the faster one counts, and the one with less CPU."""
    before, after = Figures(10, 50.0, 8.0), Figures(10, 100.0, 10.0)
    assert better(before, after) == Figures(10, 100.0, 8.0)
    load = Load(10, 8, 4, 0)
    result = compared("schedule", load, Stretch(60.0, 12.0), 200.0, before, after)
    assert result.ratio_to_baseline == 0.6
    assert result.cpu_ratio_to_baseline == 1.5
    assert result.parameters["baseline_runs_jobs_per_second"] == [50.0, 100.0]


def test_a_recovery_is_compared_with_the_better_baseline() -> None:
    """The rate is over the time from fence to ready, of records where jobs are fewer."""
    result = recovered(
        "recovery",
        1_000,
        8,
        Recovery(seconds=2.0, start_to_ready_seconds=9.0, records=1_200, rss_mb=100.0),
        Replayed(1_200, 0, 2.0, 600.0, 3.0),
        Replayed(1_200, 0, 1.2, 1_000.0, 3.0),
        {},
    )
    assert result.records_per_second == 600
    assert result.ratio_to_baseline == 0.6
    assert (result.seconds, result.start_to_ready_seconds) == (2.0, 9.0)
    assert (result.pending, result.records_replayed) == (1_000, 1_200)


def test_a_stretch_counts_only_what_happened_in_it() -> None:
    """Jobs and CPU from before the first sample are left out."""
    stretch = Stretch.between(Sample(10.0, 1_000, 5.0), Sample(12.0, 101_000, 6.5))
    assert stretch.jobs_per_second == 50_000
    assert stretch.cpu_us_per_job == pytest.approx(15.0)


def test_a_stretch_too_short_to_measure_is_refused() -> None:
    """One sample twice has no rate."""
    sample = Sample(10.0, 1_000, 5.0)
    with pytest.raises(BenchError, match="ask for more jobs"):
        Stretch.between(sample, sample)


def test_a_phase_counts_to_its_end() -> None:
    """It is done with the last job, and knows nothing before its first."""
    phase = Phase(10)
    assert phase.jobs_per_second == 0
    phase.begin()
    phase.add(4)
    assert not phase.is_done()
    phase.add(6)
    assert phase.is_done()
    assert phase.figures()["jobs"] == 10
    assert phase.jobs_per_second > 0
