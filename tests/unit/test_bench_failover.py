"""What the failover benchmark makes of the lateness of single jobs."""

import pytest

from streamsched.bench.failover import Event, _judged, back_to_normal_seconds

pytestmark = pytest.mark.unit

AT_MS = 1_800_000_000_500


def second(number: int, late_ms: float, jobs: int = 100) -> list[tuple[int, float]]:
    """Jobs that fell due in one second after the event."""
    return [(AT_MS + number * 1_000 + i, late_ms) for i in range(jobs)]


def test_back_to_normal_is_after_the_last_second_that_was_late() -> None:
    """Also where it was well for a while in between; one job in a hundred may be late."""
    well = [*second(0, 50.0), *second(1, 50.0, 99), (AT_MS + 1_100, 9_000.0)]
    assert back_to_normal_seconds(AT_MS, well) == 0.0
    assert back_to_normal_seconds(AT_MS, [*well, *second(2, 1_001.0), *second(3, 20.0)]) == 3.0
    twice = [*second(2, 5_000.0), *second(3, 1.0), *second(7, 2_000.0)]
    assert back_to_normal_seconds(AT_MS, twice) == 8.0


def test_jobs_around_an_event_are_judged_and_no_others() -> None:
    """Those that fell due just before it can be caught by it as well."""
    each = [
        (AT_MS - 501, 7_000.0),
        (AT_MS - 500, 4_000.0),
        *second(1, 30.0),
        (AT_MS + 8_500, 8_000.0),
    ]
    result = _judged(Event("kill", AT_MS, AT_MS + 9_000), each, 20, 4)
    assert (result.jobs, result.lateness_ms_max, result.lateness_ms_p50) == (101, 4_000.0, 30.0)
    assert result.bench == "failover: kill"
