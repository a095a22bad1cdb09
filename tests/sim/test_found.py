"""What the simulation has found in the engine, each told once more on purpose."""

from collections.abc import Iterator
from contextlib import contextmanager

import orjson
import pytest

from tests.sim.loop import SpinsError
from tests.sim.scenario import inspect, verdict
from tests.sim.world import CHANGELOG_RETENTION_SECONDS, Shape, World


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


def test_a_standby_that_slept_longer_than_tombstones_last_starts_anew() -> None:
    """It would read on where cancels were compacted away, and bring the cancelled jobs back."""
    world = World(2, Shape(partitions=1, hosts=2))
    with world.in_force():
        world.start(world.hosts[0])
        world.run(1.5)
        world.start(world.hosts[1])
        world.run(3.0)
        [standby] = [process for process in world.living() if process.runners.followers]
        numbers = [str(number) for number in range(5)]
        world.produce([world.submit("a", number, due_in_ms=80_000) for number in numbers])
        world.run(2.0)
        world.freeze(standby, CHANGELOG_RETENTION_SECONDS + 14)
        world.run(2.0)
        world.produce([world.cancel("a", number) for number in numbers])
        world.run(1.0)
        world.produce([world.submit("a", "the log goes on", due_in_ms=80_000)])
        world.run(CHANGELOG_RETENTION_SECONDS + 5)
        world.compact_changelog(0)
        # It rests half as long as it seems to have worked.
        world.run(CHANGELOG_RETENTION_SECONDS + 24)
        assert standby.runners.followers, "the group has made it the owner: take another seed"
        world.restarts = False
        [owner] = [process for process in world.living() if process is not standby]
        world.crash(owner)
        world.run(10.0)
        assert standby.runners.runners
        inspect(world)
        assert not verdict(world, ["a"])


def test_a_process_that_stood_still_hears_what_it_missed_before_it_dispatches() -> None:
    """Its tenant was paused, and a job of another one cancelled, before these jobs were due."""
    with one_process() as world:
        world.start(world.hosts[0])
        world.run(2.0)
        [process] = world.living()
        world.produce([world.submit("a", "1", due_in_ms=1_500)])
        world.produce([world.submit("b", "1", due_in_ms=1_500)])
        world.run(0.5)
        # Not by `freeze`: the group has not missed it yet, so there is no takeover.
        world.loop.freeze(process)
        world.run(0.2)
        world.publish("a", {"paused": True})
        world.produce([world.cancel("b", "1")])
        world.run(2.8)
        world.loop.thaw(process)
        world.run(6.0)
        events, _ = world.broker.log(world.names.events).read(0, 10)
        assert [orjson.loads(event.value)["event"] for event in events] == ["cancelled"]
        world.publish("a", {"paused": False})
        world.run(4.0)
        assert not verdict(world, ["a", "b"])
