"""What the simulation has found in the engine, each told once more on purpose."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.sim.loop import SpinsError
from tests.sim.scenario import verdict
from tests.sim.world import Shape, World


@contextmanager
def one_process(seed: int = 1) -> Iterator[World]:
    """A world with one process and one partition."""
    world = World(seed, Shape(partitions=1, hosts=1))
    with world.in_force():
        yield world


def test_a_process_that_slept_through_its_revoke_can_open_its_store_again() -> None:
    """Stopped by a signal in a revoke, it finds its times over, and must let go all the same."""
    with one_process() as world:
        world.start(world.hosts[0])
        world.run(2.0)
        [process] = world.living()
        world.faults.armed["transaction times out"] = 1
        world.produce([world.submit("a", "1")])
        world.run(0.2)
        assert world.faults.struck["transaction times out"] == 1
        world.group.rebalance()
        world.run(0.5)
        world.freeze(process, 8.0)
        world.run(15.0)
        assert process.is_alive
        assert not verdict(world, ["a"])


def test_waiting_for_settings_costs_nothing() -> None:
    """A runner that was woken before the settings were read to their end does not go round."""
    with one_process() as world:
        for number in range(300):
            world.publish(f"a{number}", {"rate": "1/s"})
        world.start(world.hosts[0])
        try:
            world.run(20.0)
        except SpinsError as error:
            pytest.fail(str(error))
        assert not verdict(world, [])


def test_a_failing_transaction_is_not_tried_again_with_each_record_that_arrives() -> None:
    """Half a second lies between tries, however busy the ingress is."""
    with one_process() as world:
        world.start(world.hosts[0])
        world.run(2.0)
        world.faults.armed["commit is refused"] = 1_000
        for number in range(200):
            world.produce([world.submit("a", str(number), due_in_ms=20_000)])
            world.run(0.02)
        assert 5 <= world.faults.struck["commit is refused"] <= 10
        assert not verdict(world, ["a"])
