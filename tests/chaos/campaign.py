"""One run of chaos from its seed to its verdict."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from streamsched.demo.verdict import Verdict
from tests.chaos.faults import Fault, all_faults
from tests.chaos.judge import Circumstances, judge
from tests.chaos.proof import NotHappened
from tests.chaos.reader import ReaderFault
from tests.chaos.world import NotCalm, World, now_ms

STILL_SECONDS_MAX: Final = 120.0
"""How long no job may end while some are pending; backlogs leave no faster than their rates."""


@dataclass
class Outcome:
    """What came out of a run; `broken` is empty if every promise was kept and every fault real."""

    seed: int
    nodes: int
    happened: list[tuple[str, str]] = field(default_factory=list)
    """Each fault with the proof of it."""
    verdicts: Sequence[Verdict] = ()
    broken: list[str] = field(default_factory=list)
    evidence: Path | None = None

    def text(self) -> str:
        """All of it, for people."""
        counts = Counter(name for name, _ in self.happened)
        lines = [f"seed {self.seed}, {self.nodes} nodes, {len(self.happened)} faults"]
        lines += [f"  {count} x {name}" for name, count in counts.items()]
        for verdict in self.verdicts:
            mark = "kept  " if verdict.kept else "BROKEN"
            lines.append(f"  {mark} {verdict.promise}: {verdict.checked}")
        lines += [f"  {text}" for text in self.broken]
        if self.evidence is not None:
            lines.append(f"  evidence: {self.evidence}")
        return "\n".join(lines)


def run(
    folder: Path,
    seed: int,
    nodes: int,
    choose: Callable[[World, Sequence[Fault]], Sequence[Fault]],
    *,
    outage_seconds: float,
    rest_seconds: float,
    life_seconds: int,
    until: float = 0.0,
    say: Callable[[str], None],
) -> Outcome:
    """Start everything, do the chosen faults in rounds until `until` (monotonic), and judge.

    There is one round at least. On a violation the logs and what was read are left in `folder`.
    """
    outcome = Outcome(seed, nodes)
    began = time.monotonic()

    def tell(text: str) -> None:
        say(f"{time.monotonic() - began:7.1f} s  {text}")

    world = World(folder, nodes, f"{seed}:{nodes}", tell, life_seconds=life_seconds)
    possible = [fault for fault in all_faults(outage_seconds) if nodes >= fault.nodes_min]
    try:
        tell(f"seed {seed}: {nodes} nodes are starting")
        with world.trouble("start"):
            world.start()
            prepare(world)
        rounds = partial(choose, world, possible)
        do_rounds(world, outcome, rounds, until=until, rest_seconds=rest_seconds)
        finish(world, outcome)
    except (NotCalm, ReaderFault) as error:
        outcome.broken.append(f"{type(error).__name__}: {error}")
    finally:
        world.close()
    judge_all(world, outcome)
    shutil.rmtree(folder / "kafka", ignore_errors=True)
    return outcome


def prepare(world: World) -> None:
    """Take the copy of the state that is put back later, and bring up a second scheduler."""
    first = world.members[0]
    world.await_true("a second of dispatches", lambda: len(world.reader.recent_ms) > 100)
    first.terminate()
    world.old_state = world.folder / "old-state"
    shutil.copytree(first.state_folder, world.old_state)
    first.start()
    world.add_member()
    world.await_calm()
    world.say("two schedulers work")


def do_rounds(
    world: World,
    outcome: Outcome,
    choose: Callable[[], Sequence[Fault]],
    *,
    until: float,
    rest_seconds: float,
) -> None:
    """One round after the other until the time is over; what does not come back ends it early."""
    while True:
        faults = choose()
        if not faults:
            # A run that tried nothing has kept no promise, and would go round here without a rest.
            outcome.broken.append("no fault was to be done, so nothing was tried")
            return
        for fault in faults:
            try:
                do(world, fault, outcome)
            except (NotCalm, NotHappened) as error:
                outcome.broken.append(f"{fault.name}: {type(error).__name__}: {error}")
                world.say(f"  {outcome.broken[-1][:500]}")
                if isinstance(error, NotCalm):
                    return
            # What a job suffers in peace is worth knowing, too.
            time.sleep(rest_seconds)
            if until and time.monotonic() > until:
                return
        if time.monotonic() >= until:
            return


def do(world: World, fault: Fault, outcome: Outcome) -> None:
    """One fault, from calm to calm."""
    world.say(f"{fault.name} …")
    started = time.monotonic()
    restarts = len(world.restarts)
    with world.trouble(fault.name):
        proof = fault.run(world)
    outcome.happened.append((fault.name, proof))
    ended = world.restarts[restarts:]
    world.say(f"  {proof} [{time.monotonic() - started:.1f} s]")
    if ended:
        outcome.broken += [f"during {fault.name}: {text}" for text in ended]


def finish(world: World, outcome: Outcome) -> None:
    """Stop the load, let everything leave, stop the schedulers, read to the end."""
    world.say("the load ends")
    world.load.stop()
    world.say("Kafka has what was sent")
    try:
        world.say(f"{world.reader.pending()} jobs are pending")
        while pending := world.reader.pending():
            world.await_true("a job ends", partial(_fewer, world, pending), STILL_SECONDS_MAX)
        world.say("every job has ended")
    except NotCalm:
        outcome.broken.append(f"{world.reader.pending()} jobs were pending to the end")
    for member in world.members:
        status = member.terminate()
        if status:
            outcome.broken.append(f"{member.name} ended with status {status} on SIGTERM")
    world.reader.finish()
    world.say("everything was read")


def _fewer(world: World, before: int) -> bool:
    """Whether less is pending than before."""
    return world.reader.pending() < before


def judge_all(world: World, outcome: Outcome) -> None:
    """Let the judge look at all that was read; keep evidence where something is broken."""
    try:
        ledger = world.reader.ledger
    except AttributeError:
        return
    circumstances = Circumstances(
        now_ms(), world.faults, world.deletions, frozenset(world.load.acknowledged)
    )
    outcome.verdicts = judge(ledger, circumstances)
    for verdict in outcome.verdicts:
        outcome.broken += [f"{verdict.promise}: {text}" for text in verdict.examples]
    if not outcome.broken:
        return
    outcome.evidence = world.folder
    tables: dict[str, Sequence[Any]] = {
        "jobs": list(ledger.jobs.values()),
        "cancels": ledger.cancels,
        "dispatches": ledger.dispatches,
        "events": ledger.events,
        "dead-letters": ledger.dead_letters,
        "rejected": ledger.rejected,
    }
    for name, rows in tables.items():
        with (world.folder / f"{name}.jsonl").open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(row._asdict()) + "\n" for row in rows)
    lines = [outcome.text(), "", *(f"{name}: {proof}" for name, proof in outcome.happened)]
    for verdict in outcome.verdicts:
        lines += [f"{verdict.promise}: {text}" for text in verdict.broken]
    lines += [f"{name}: {span.start_ms} to {span.end_ms}" for name, span in world.faults]
    lines += [f"{gone}" for gone in world.deletions]
    (world.folder / "violations.txt").write_text("\n".join(lines) + "\n", "utf-8")
