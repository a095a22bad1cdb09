"""A wall clock that was set back: what the runner does meanwhile, and what readiness says."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from streamsched.core.cycle import Cycle
from streamsched.core.limits import CLOCK_STEP_BACK_MS_MAX
from streamsched.engine.metrics import Metrics
from streamsched.engine.runner import Runner
from streamsched.engine.runners import PartitionRunners
from streamsched.engine.shared import Phase
from streamsched.settings import Settings
from streamsched.testing import Driver


class Process:
    """A process that is ready, with one partition and a wall clock that a test sets."""

    def __init__(self, folder: Path) -> None:
        """One cycle was run."""
        self.driver = Driver()
        self.began_ms = self.now_ms = self.driver.now_ms
        ingress: Any = SimpleNamespace(owns=lambda *_: True, is_forbidden=lambda: False)
        shared: Any = SimpleNamespace(
            ingress=ingress,
            clock_ms=lambda: self.now_ms,
            monotonic=lambda: 0.0,
            pulse=SimpleNamespace(beat=lambda: 0.0),
            metrics=Metrics(),
        )
        self.runner = Runner(shared, 0, 1)
        self.runner.phase = Phase.READY
        self.owner = PartitionRunners(Settings(data_dir=folder), ingress)
        self.owner.has_assignment = self.owner.view.complete = True
        self.owner.runners[0] = self.runner
        self.cycle_after(0)

    def cycle_after(self, ms: int) -> Cycle:
        """A cycle when the clock shows so many ms more than at the beginning."""
        self.now_ms = self.began_ms + ms
        cycle = asyncio.run(self.runner._one_cycle(self.driver.partitions[0], None))
        assert cycle is not None
        return cycle


@pytest.fixture
def process(tmp_path: Path) -> Process:
    """One that has run a cycle."""
    return Process(tmp_path)


def test_time_stands_still_while_the_clock_is_behind(process: Process) -> None:
    """Cycles go on by the last known time until the clock has caught up with it."""
    times_ms = [process.cycle_after(ms).now_ms for ms in (5_000, 2_000, 4_999, 5_001)]
    assert [ms - process.began_ms for ms in times_ms] == [5_000, 5_000, 5_000, 5_001]


def test_a_clock_that_is_far_behind_turns_readiness_off_until_it_has_caught_up(
    process: Process,
) -> None:
    """More than a second behind the last cycle is a fault that says by how much; less is none."""
    assert process.owner.faults() == {}
    process.cycle_after(-CLOCK_STEP_BACK_MS_MAX)
    assert process.owner.faults() == {}
    process.cycle_after(-CLOCK_STEP_BACK_MS_MAX - 1)
    assert process.runner.clock_is_back_ms == CLOCK_STEP_BACK_MS_MAX + 1
    assert process.owner.faults() == {"partition 0": "the clock is 1001 ms behind the last cycle"}
    process.cycle_after(-CLOCK_STEP_BACK_MS_MAX)
    assert process.runner.clock_is_back_ms == 0
    assert process.owner.faults() == {}


def test_each_step_back_is_logged_once(process: Process) -> None:
    """However many cycles are run meanwhile; one that comes after it has caught up is another."""
    with structlog.testing.capture_logs() as logs:
        for ms in (-3_000, -2_000, -500, 0, -1_500):
            process.cycle_after(ms)
    assert [(line["partition"], line["behind_ms"]) for line in logs] == [(0, 3_000), (0, 1_500)]
    assert all(line["event"].startswith("the clock went back; jobs leave by") for line in logs)
