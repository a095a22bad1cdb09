"""`python -m tests.chaos`: chaos for as long as one likes, what `make chaos` runs."""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from tests.chaos.campaign import Outcome, run
from tests.chaos.faults import Fault, all_faults
from tests.chaos.world import World

OUTAGE_SECONDS: Final = 60.0
REST_SECONDS: Final = 8.0
OVERTIME_SECONDS: Final = 900
"""What a run may need beyond its time: the last fault, the drain, the end."""


def every_fault(world: World, possible: Sequence[Fault]) -> Sequence[Fault]:
    """A round: every fault once, in an order of the seed's."""
    return world.random.sample(possible, len(possible))


def unfit(only: Sequence[str], nodes: Sequence[int]) -> str:
    """Why these faults cannot be done on clusters of so many nodes; empty if they can."""
    faults = {fault.name: fault for fault in all_faults(OUTAGE_SECONDS)}
    for name in only:
        if name not in faults:
            return f"there is no fault {name!r}; there are: {', '.join(faults)}"
        if faults[name].nodes_min > max(nodes):
            return (
                f"{name!r} needs {faults[name].nodes_min} nodes, and --nodes has "
                f"{max(nodes)} at most; {_those_of(faults.values(), max(nodes))}"
            )
    for count in nodes:
        if all(faults[name].nodes_min > count for name in only or faults):
            return (
                f"none of the faults can be done on {count} nodes: name others, or leave that "
                f"out of --nodes; {_those_of(faults.values(), count)}"
            )
    return ""


def _those_of(faults: Iterable[Fault], nodes: int) -> str:
    fitting = ", ".join(fault.name for fault in faults if fault.nodes_min <= nodes)
    return f"on {nodes} nodes there are: {fitting or 'none'}"


def main() -> int:
    """Run on one node, then on three, for half the time each; 1 if anything was broken."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make chaos")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--outage-seconds", type=float, default=OUTAGE_SECONDS)
    parser.add_argument("--only", nargs="+", default=[], help="names of faults")
    chosen = parser.parse_args()
    if fault := unfit(chosen.only, chosen.nodes):
        parser.error(fault)
    # Told to end, it ends what it has started first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    seed = random.SystemRandom().getrandbits(32) if chosen.seed is None else chosen.seed
    print(f"repeat with SEED={seed}", flush=True)
    each_seconds = chosen.minutes * 60 / len(chosen.nodes)
    outcomes: list[Outcome] = []

    def choose(world: World, possible: Sequence[Fault]) -> Sequence[Fault]:
        wanted = [fault for fault in possible if not chosen.only or fault.name in chosen.only]
        return every_fault(world, wanted)

    for nodes in chosen.nodes:
        folder = Path(tempfile.mkdtemp(prefix=f"streamsched-chaos-{seed}-{nodes}-"))
        outcome = run(
            folder,
            seed,
            nodes,
            choose,
            outage_seconds=chosen.outage_seconds,
            rest_seconds=REST_SECONDS,
            life_seconds=int(each_seconds) + OVERTIME_SECONDS,
            until=time.monotonic() + each_seconds,
            say=lambda text: print(text, flush=True),
        )
        outcomes.append(outcome)
        print(outcome.text(), flush=True)
        if not outcome.broken:
            shutil.rmtree(folder)
    broken = sum(len(outcome.broken) for outcome in outcomes)
    faults = sum(len(outcome.happened) for outcome in outcomes)
    verdict = f"BROKEN in {broken} ways" if broken else "every promise was kept"
    print(f"chaos, seed {seed}: {faults} faults, {verdict}", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
