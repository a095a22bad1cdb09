"""The protocol holds in simulated worlds of many seeds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.scenario import Scenario

SEEDS = 2_000
SEEDS_PER_TEST = 50
TRACE_LINES = 150


def seeds_of(seed: int, part: int) -> range:
    """The seeds of one test, of which every run has others."""
    first = seed * SEEDS + part * SEEDS_PER_TEST
    return range(first, first + SEEDS_PER_TEST)


@pytest.mark.parametrize("part", range(SEEDS // SEEDS_PER_TEST))
def test_nothing_is_lost_doubled_early_or_too_fast(part: int, seed: int) -> None:
    """Whatever goes wrong, each accepted job ends once, in time, in order, at its rate."""
    for one in seeds_of(seed, part):
        violations = Scenario(one).run()
        if violations:
            again = Scenario(one, traces=True)
            again.run()
            trace = "\n".join(again.world.trace[-TRACE_LINES:])
            told = "\n".join(violations)
            pytest.fail(f"{trace}\nseed {one}: {told}\nagain: make sim SEED={one}", pytrace=False)


def trace_of(seed: int, hash_seed: str) -> str:
    """The trace of a seed in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim", "--seed", str(seed)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_a_seed_is_one_history(seed: int) -> None:
    """A seed repeats what it did, step by step, in another interpreter."""
    for one in seeds_of(seed, 0)[:1]:
        trace = trace_of(one, "1")
        assert trace.count("\n") > 30
        assert trace == trace_of(one, "2")
