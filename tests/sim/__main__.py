"""Runs seeds: `python -m tests.sim --seeds 10000`, or one with its trace: `--seed 17`."""

import argparse
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from tests.sim.scenario import Scenario

SEEDS_PER_TASK = 50


@dataclass
class Ran:
    """What came of some seeds."""

    violated: list[tuple[int, list[str]]] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)


def run_seeds(seeds: range) -> Ran:
    """Run each of them."""
    ran = Ran()
    for seed in seeds:
        scenario = Scenario(seed)
        violations = scenario.run()
        ran.faults += scenario.world.faults.struck
        if violations:
            ran.violated.append((seed, violations))
    return ran


def show(seed: int) -> int:
    """Run one seed and print its trace."""
    scenario = Scenario(seed, traces=True)
    violations = scenario.run()
    print("\n".join(scenario.world.trace))
    for violation in violations:
        print(f"VIOLATION: {violation}")
    print(f"seed {seed}: {len(violations)} violations")
    return bool(violations)


def main() -> int:
    """Exit status 1 if anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000, help="how many seeds")
    parser.add_argument("--first", type=int, help="the first of them (default: a new one)")
    parser.add_argument("--seed", type=int, help="run this one, with its trace")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.seed is not None:
        return show(options.seed)
    first = random.SystemRandom().getrandbits(32) if options.first is None else options.first
    end = first + options.seeds
    started = time.monotonic()
    tasks = [range(at, min(at + SEEDS_PER_TASK, end)) for at in range(first, end, SEEDS_PER_TASK)]
    violated = 0
    faults: Counter[str] = Counter()
    with ProcessPoolExecutor(options.processes) as pool:
        for ran in pool.map(run_seeds, tasks):
            faults += ran.faults
            for seed, violations in ran.violated:
                violated += 1
                print(f"seed {seed}: {violations[0]} (of {len(violations)}); make sim SEED={seed}")
                sys.stdout.flush()
    for kind, times in sorted(faults.items()):
        print(f"{times:8} x {kind}")
    seconds = time.monotonic() - started
    print(f"{options.seeds} seeds from {first} on in {seconds:.0f} s, {violated} with violations")
    return bool(violated)


if __name__ == "__main__":
    sys.exit(main())
