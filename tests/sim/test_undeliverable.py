"""Jobs that the broker refuses, among topics that refuse everything now and then."""

import pytest

from tests.sim.clients import POISON
from tests.sim.scenario import Aim, Scenario, verdict
from tests.sim.world import Shape, World

TENANT = "a"


def history(kill_at: int) -> tuple[int, list[str], int]:
    """A job that is refused among others, and a kill at one effect.

    Returns how many effects there were, the verdict, and how many jobs were given up.
    """
    world = World(3, Shape(partitions=1, hosts=2))
    world.crash_at_effects = {kill_at}
    with world.in_force():
        for host in world.hosts:
            world.start(host)
        world.run(1.0)
        world.produce([world.submit(TENANT, str(number)) for number in range(3)])
        world.produce([world.submit(TENANT, "bad", payload=POISON)])
        world.produce([world.submit(TENANT, str(number)) for number in range(3, 9)])
        world.run(25.0)
        effects = world.effects
        found = verdict(world, [TENANT], is_poisoned=True)
        letters = world.broker.log(world.names.dead_letters).committed()
        return effects, found, sum(entry.value == POISON for entry in letters)


def test_a_refused_job_is_given_up_once_whatever_is_killed() -> None:
    """It has one dead letter and one event, and all others leave, wherever a process ends."""
    effects, violations, given_up = history(0)
    assert (violations, given_up) == ([], 1)
    for kill_at in range(1, effects + 1, 3):
        _, violations, given_up = history(kill_at)
        assert (violations, given_up) == ([], 1), f"killed before effect {kill_at}"


@pytest.mark.parametrize("event", ["crash", "rebalance", "hide", "settings"])
def test_only_jobs_that_are_refused_alone_are_given_up(event: str, seed: int) -> None:
    """Topics that refuse everything, in between, lose no job."""
    for one in range(seed * 25, seed * 25 + 25):
        violations = Scenario(one, aim=Aim(events=("refuse", event), poison=0.2)).run()
        assert not violations, f"seed {one} with {event}: {violations}"
