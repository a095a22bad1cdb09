"""A simulation that fails itself has found something, too, and the other seeds run on."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.sim import __main__ as command
from tests.sim import scenario
from tests.sim.loop import SpinsError
from tests.sim.scenario import Scenario

FIRST = 5


def breaks_down(error: Exception) -> Callable[..., Any]:
    """What raises instead of doing what it is for."""

    def broken(*_: object, **__: object) -> None:
        raise error

    return broken


@pytest.mark.parametrize(
    "error", [KeyError("gone"), SpinsError("no end of steps")], ids=["any", "spins"]
)
@pytest.mark.parametrize("part", ["inspect", "verdict", "Scenario._plan"])
def test_an_unexpected_exception_is_a_violation(
    part: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told with its seed and with where it came from, and leaves nothing that still runs."""
    monkeypatch.setattr(f"{scenario.__name__}.{part}", breaks_down(error))
    ran = Scenario(FIRST, traces=True)
    assert ran.run() == [f"inside: seed {FIRST} ended with {error!r}"]
    assert "in broken\n    raise error" in ran.world.trace[-1]
    assert ran.world.living() == []


def test_the_command_goes_on_after_an_unexpected_exception(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make sim` tells how to repeat such seeds, and its last line counts seeds and violations."""
    monkeypatch.setattr(scenario, "inspect", breaks_down(KeyError("gone")))
    # In a thread, where what was put in the place of `inspect` is in force.
    monkeypatch.setattr(command, "ProcessPoolExecutor", ThreadPoolExecutor)
    options = ["--seeds", "2", "--first", str(FIRST), "--processes", "1"]
    monkeypatch.setattr(sys, "argv", ["sim", *options])
    assert command.main() == 1
    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if line.startswith("seed ")]
    assert told == [
        f"seed {seed}: inside: seed {seed} ended with KeyError('gone') (of 1); make sim SEED={seed}"
        for seed in (FIRST, FIRST + 1)
    ]
    assert lines[-1].startswith(f"2 seeds from {FIRST} on in ")
    assert lines[-1].endswith(" s, 2 with violations")
