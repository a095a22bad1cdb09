"""Long dense histories of a partition, drawn from the run's seed, against the same model.

Hypothesis finds short histories that break a rule, and shrinks them; these reach states that
only many steps lead to: stale standbys, several seconds behind, heads that moved.
"""

import os
import random

import pytest

from streamsched.core.destinations import Problem
from tests.property.strategies import use_small_limits
from tests.property.test_driver_machine import DriverMachine, RocksMachine

TENANTS = ["a", "b", "c", "a-"]
RATES = ["1/s", "10/s", "3/2s", "1/333ms", "unlimited", "1/20s"]
SCALE = 20 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 1


def submit(machine: DriverMachine, rng: random.Random) -> None:
    """Some jobs of one tenant."""
    expires = rng.choice([None, None, rng.randint(-100, 8_000)])
    machine.submit(
        rng.choice(TENANTS),
        [f"{rng.randrange(25)}" for _ in range(rng.randint(1, 12))],
        rng.choice([rng.randint(-6_000, 6_000), rng.randint(-200, 200)]),
        expires,
        rng.choice([None, "k1", "k2"]),
        rng.choice([None, None, 0, 1]),
        rng.choice([1, 150]),
    )


def change(machine: DriverMachine, rng: random.Random) -> None:
    """New settings of a tenant or of all."""
    fields = {
        "rate": rng.choice(RATES),
        "burst": rng.randint(1, 4),
        "paused": rng.random() < 0.3,
        "egress_topic": "shared",
        "events": rng.choice(["all", "outcomes"]),
    }
    given = {name: value for name, value in fields.items() if rng.random() < 0.6}
    machine.change(rng.choice([*TENANTS, "*"]), rng.choice([given, given, None]))


def topic(machine: DriverMachine, rng: random.Random) -> None:
    """A topic breaks or is mended."""
    name = rng.choice(["streamsched.egress.a", "streamsched.egress.b", "shared"])
    if rng.random() < 0.4:
        machine.break_topic(name, rng.choice([Problem.MISSING, Problem.FORBIDDEN]))
    else:
        machine.mend_topic(name, rng.randint(1, 3))


def step(machine: DriverMachine, rng: random.Random) -> None:  # noqa: C901  (a table of what can happen)
    """One thing that can happen."""
    match rng.choices(range(11), [30, 8, 6, 4, 12, 25, 2, 4, 3, 2, 6])[0]:
        case 0:
            submit(machine, rng)
        case 1:
            machine.cancel(rng.choice(TENANTS), f"{rng.randrange(25)}")
        case 2:
            change(machine, rng)
        case 3:
            topic(machine, rng)
        case 4:
            machine.advance(rng.choice([0, 1, 10, 250, 999, 1_000, 2_500]))
        case 5:
            machine.stall(rng.choice([1, 50, 700, 2_500]), rng.randrange(2))
        case 6:
            machine.step_back(rng.choice([1, 900, 5_000]))
        case 7:
            machine.abort(rng.randrange(2))
        case 8:
            machine.restart()
        case 9:
            machine.rebuild(compacted=rng.random() < 0.5)
        case _:
            machine.take_over()


@pytest.mark.parametrize("small", [True, False])
def test_long_histories_in_memory(
    small: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
    rng: random.Random,
) -> None:
    """Over hundreds of steps each job still ends exactly once, in order, in time, at its rate."""
    if small:
        use_small_limits(monkeypatch)
    for _ in range(15 * SCALE):
        machine = DriverMachine()
        for _ in range(120):
            step(machine, rng)
        machine.teardown()


def test_long_history_on_rocksdb(monkeypatch: pytest.MonkeyPatch, rng: random.Random) -> None:
    """The same on the store that production runs on."""
    use_small_limits(monkeypatch)
    machine = RocksMachine()
    for _ in range(120):
        step(machine, rng)
    machine.teardown()
