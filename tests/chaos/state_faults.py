"""Faults of a scheduler's local state: removed, damaged, and put back from an earlier time."""

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tests.broker.scheduler_process import LogLine, events_named
from tests.chaos.member import Member
from tests.chaos.proof import NotHappened, demand
from tests.chaos.world import World

FLIP_EVERY_BYTES: Final = 200


def lose_state(world: World) -> str:
    """The local state of a scheduler is gone when it starts."""

    def remove(folder: Path) -> None:
        shutil.rmtree(folder)

    return _with_state(world, "removed", remove)


def corrupt_manifest(world: World) -> str:
    """Bytes of the lists of files of every store are flipped."""
    return _corrupt(world, "MANIFEST-*", must_rebuild=True)


def corrupt_tables(world: World) -> str:
    """Bytes of the sorted tables of every store are flipped."""
    return _corrupt(world, "*.sst", must_rebuild=False)


def corrupt_log(world: World) -> str:
    """Bytes of the write-ahead log of every store are flipped."""
    return _corrupt(world, "*.log", must_rebuild=False)


def restore_old_state(world: World) -> str:
    """A copy of the state that was taken early in the run is put back."""
    old = world.old_state
    if old is None:
        raise NotHappened("no copy of the state was taken")

    def put_back(folder: Path) -> None:
        shutil.rmtree(folder)
        shutil.copytree(old, folder)

    return _with_state(world, "replaced by an old copy", put_back)


def _with_state(world: World, what: str, wreck: Callable[[Path], None]) -> str:
    """Do something to the state of a scheduler while it is down; it must read the changelog."""
    victim = _member_with_state(world)
    victim.kill()
    stores = len([folder for folder in victim.state_folder.iterdir() if folder.is_dir()])
    demand(stores, f"{victim.name} has no state")
    wreck(victim.state_folder)
    since = victim.log_size()
    victim.start()
    world.await_calm()
    lines = victim.log_lines(since)
    partitions, records = _loaded(lines)
    loaded = records > 0 or bool(events_named(lines, "standby is loaded"))
    demand(loaded, f"{victim.name} went on without reading the changelog")
    return (
        f"the state of {victim.name} ({stores} stores) was {what}: {partitions} partitions "
        f"recovered, {records} records of the changelog were read{_because(_rebuilt(lines))}"
    )


def _corrupt(world: World, pattern: str, *, must_rebuild: bool) -> str:
    victim = _member_with_state(world)
    victim.kill()
    flipped = _flip(world.random, victim.state_folder, pattern)
    since = victim.log_size()
    victim.start()
    world.await_calm()
    lines = victim.log_lines(since)
    rebuilt = _rebuilt(lines)
    partitions, _ = _loaded(lines)
    demand(flipped, f"{victim.name} has no {pattern}")
    demand(partitions, f"{victim.name} was not assigned any partition")
    if must_rebuild:
        demand(rebuilt, f"{victim.name} noticed nothing")
    return (
        f"{sum(flipped.values())} bytes of {len(flipped)} {pattern} of {victim.name} were flipped: "
        f"{partitions} partitions recovered, {len(rebuilt)} rebuilt{_because(rebuilt)}"
    )


def _flip(rng: random.Random, folder: Path, pattern: str) -> dict[str, int]:
    """Flip a bit in every so many bytes of the files; how many in each."""
    flipped: dict[str, int] = {}
    for path in sorted(folder.glob(f"*/{pattern}")):
        content = bytearray(path.read_bytes())
        if not content:
            continue
        places = {rng.randrange(len(content)) for _ in range(1 + len(content) // FLIP_EVERY_BYTES)}
        for place in places:
            content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        flipped[str(path.relative_to(folder))] = len(places)
    return flipped


def _member_with_state(world: World) -> Member:
    """The first scheduler has had every partition, so whichever it gets, there is state of it."""
    first = world.all_members[0]
    return first if first in world.members else world.busy_member()


def _rebuilt(lines: Sequence[LogLine]) -> list[LogLine]:
    """What the scheduler says of state that it does not go on from, standbys included."""
    broken = [
        line
        for kind in ("partition begins again", "standby begins again")
        for line in events_named(lines, kind)
        if "damaged" in str(line.get("error")) or "Corruption" in str(line.get("error"))
    ]
    unfit = events_named(lines, "local state is rebuilt")
    return [*unfit, *events_named(lines, "standby is rebuilt"), *broken]


def _loaded(lines: Sequence[LogLine]) -> tuple[int, int]:
    """Partitions that were recovered or loaded as a standby; records read for the former."""
    recovered = events_named(lines, "partition recovered")
    loaded = events_named(lines, "standby is loaded")
    return len(recovered) + len(loaded), sum(line["records"] for line in recovered)


def _because(rebuilt: Sequence[LogLine]) -> str:
    reasons = {str(line.get("reason") or line.get("error"))[:120] for line in rebuilt}
    return f" ({'; '.join(sorted(reasons)[:2])})" if reasons else ""
