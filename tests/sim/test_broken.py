"""A simulation that finds nothing proves nothing: these protocols are broken, and it finds out."""

import re

import pytest

from tests.sim.broken import BROKEN
from tests.sim.scenario import Scenario

SEEDS_MAX = 400


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_protocol_is_caught(name: str) -> None:
    """The topics alone show what a protocol without one of our rules does to jobs."""
    broken = BROKEN[name]
    for seed in range(SEEDS_MAX):
        violations = Scenario(seed, protocol=broken.protocol, aim=broken.aim).run()
        found = [violation for violation in violations if re.search(broken.harm, violation)]
        if found:
            print(f"{name}: seed {seed}: {found[0]}")
            return
    pytest.fail(f"{name}: {SEEDS_MAX} seeds found no harm in it")


@pytest.mark.parametrize("name", BROKEN)
def test_the_real_protocol_passes_where_a_broken_one_is_caught(name: str) -> None:
    """What catches the broken protocols is their fault, and not that of where we look."""
    for seed in range(20):
        violations = Scenario(seed, aim=BROKEN[name].aim).run()
        assert not violations, f"seed {seed} with the aim of {name!r}: {violations}"
