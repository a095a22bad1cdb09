"""Schedulers that are killed, hung and robbed, on brokers that fail, judged by the topics alone."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.chaos.campaign import run
from tests.chaos.faults import Fault
from tests.chaos.world import World

LIFE_SECONDS = 600
OUTAGE_SECONDS = 8.0
REST_SECONDS = 2.0

ONE_NODE = ("scheduler", "state", "topic", "outage")
THREE_NODES = ("zombie", "broker", "members")


# Several Javas and schedulers on the cores of one machine: what else runs would make them late,
# and they would make late what else runs.
@pytest.mark.serial
@pytest.mark.timeout(LIFE_SECONDS)
@pytest.mark.parametrize(("nodes", "kinds"), [(1, ONE_NODE), (3, THREE_NODES)], ids=["1", "3"])
def test_no_promise_is_broken_whatever_fails(
    tmp_path: Path, seed: int, nodes: int, kinds: Sequence[str]
) -> None:
    """One fault of each kind, chosen by the seed: all of them happened, and nothing was lost."""

    def choose(world: World, possible: Sequence[Fault]) -> Sequence[Fault]:
        chosen = [world.random.choice([f for f in possible if f.kind == kind]) for kind in kinds]
        return world.random.sample(chosen, len(chosen))

    outcome = run(
        tmp_path,
        seed,
        nodes,
        choose,
        outage_seconds=OUTAGE_SECONDS,
        rest_seconds=REST_SECONDS,
        life_seconds=LIFE_SECONDS,
        say=print,
    )
    print(outcome.text())
    assert outcome.broken == [], outcome.text()
    assert len(outcome.happened) == len(kinds)
