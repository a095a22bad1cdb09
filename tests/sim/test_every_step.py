"""A process is killed before each single thing that it does to disk or broker."""

from tests.sim.scenario import verdict
from tests.sim.world import Shape, World

TENANT = "a"


def history(kill_at: int) -> tuple[int, int, list[str]]:
    """A few jobs, an expiry, a cancel, a replacement, and a kill at one effect.

    Returns how many effects and kills there were before the end, and the verdict.
    """
    world = World(7, Shape(partitions=1, hosts=2))
    world.crash_at_effects = {kill_at}
    with world.in_force():
        world.publish(TENANT, {"rate": "5/s"})
        for host in world.hosts:
            world.start(host)
        world.run(1.0)
        world.produce([world.submit(TENANT, str(number)) for number in range(4)])
        world.produce([world.submit(TENANT, "later", due_in_ms=1_500)], "committed")
        world.produce([world.submit(TENANT, "dies", due_in_ms=9_000, expires_in_ms=1_000)])
        world.run(0.4)
        world.produce([world.cancel(TENANT, "later"), world.submit(TENANT, "dies")])
        world.produce([world.bad(0), world.cancel(TENANT, "unknown")])
        world.run(2.0)
        effects = world.effects
        kills = len(world.processes) - len(world.living())
        return effects, kills, verdict(world, [TENANT])


def test_a_kill_before_any_effect_does_no_harm() -> None:
    """Wherever between two effects a process ends, its successor makes the same of the log."""
    effects, kills, violations = history(0)
    assert (kills, violations) == (0, [])
    assert effects > 40
    for kill_at in range(1, effects + 1):
        _, kills, violations = history(kill_at)
        assert (kills, violations) == (1, []), f"killed before effect {kill_at}"
