"""The faults. Each is done, is waited out, and gives proof that it really happened.

A fault returns a sentence of what was seen of it; one that has not happened as it should raises
`NotHappened`, because a schedule that did nothing proves nothing.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from streamsched.kafka import admin
from tests.broker.cluster import partition_count
from tests.broker.scheduler_process import LogLine, events_named
from tests.chaos import state_faults as state
from tests.chaos.judge import Deletion
from tests.chaos.load import DOOMED
from tests.chaos.proof import demand
from tests.chaos.world import PARTITIONS, World, now_ms

MEMBERS_MAX: Final = 3
NODE_AWAY_SECONDS: Final = (2.0, 6.0)
DELETION_SHOWS_MS: Final = 3_000
"""For so long after its deletion a broker may still take records for a topic."""
REFUSAL: Final = "is in use by another process"


def kill(world: World) -> str:
    """Kill -9 of a scheduler, and a start after a while."""
    victim = world.busy_member()
    owned = victim.ready_partitions()
    since = _log_sizes(world)
    victim.kill()
    _pause(world, 0.0, 8.0)
    victim.start()
    world.await_calm()
    taken = _assigned_since(world, since)
    demand(owned and owned <= taken, f"{owned} were to be taken over, {taken} were")
    return f"{victim.name} was killed with {_of(owned)}, which were assigned anew"


def hang(world: World) -> str:
    """SIGSTOP past the session's timeout, then SIGCONT: it must find out that it is out."""
    victim = world.busy_member()
    owned = victim.ready_partitions()
    since = _log_sizes(world)
    generation = _generation(victim.log_lines())
    victim.suspend()
    others = [member for member in world.members if member is not victim]
    try:
        world.await_true(
            "others work on the partitions of one that hangs",
            lambda: owned <= set().union(*(member.ready_partitions() for member in others)),
        )
        # The zombie's producers are fenced by now; it wakes to what it left open.
        _pause(world, 0.0, 2.0)
    finally:
        victim.resume()
    world.await_calm()
    lines = victim.log_lines(since[victim.name])
    fenced = [line for line in lines if "fenced" in str(line)]
    rejoined = _generation(lines)
    ended = bool(events_named(lines, "scheduler started"))
    demand(ended or rejoined > generation, f"{victim.name} went on in generation {generation}")
    how = "was started again" if ended else f"rejoined in generation {rejoined}"
    return (
        f"{victim.name} hung in generation {generation} with {_of(owned)}, was told "
        f"{len(fenced)} times that it is fenced, and {how}"
    )


def restart(world: World) -> str:
    """SIGTERM of a scheduler, and a start."""
    victim = world.busy_member()
    owned = victim.ready_partitions()
    status = victim.terminate()
    _pause(world, 0.0, 3.0)
    victim.start()
    world.await_calm()
    demand(owned, f"{victim.name} owned nothing")
    demand(status == 0, f"{victim.name} ended with status {status} on SIGTERM")
    return f"{victim.name} ended in order with {_of(owned)} and came back"


def scale(world: World) -> str:
    """A scheduler more where there is room, else one fewer."""
    if len(world.members) < MEMBERS_MAX:
        added = world.add_member()
        world.await_calm()
        world.await_true(f"{added.name} works", lambda: bool(added.ready_partitions()))
        world.await_calm()
        return f"{added.name} was added and works on {_of(added.ready_partitions())}"
    victim = world.busy_member()
    owned = victim.ready_partitions()
    since = _log_sizes(world)
    status = victim.terminate()
    world.members.remove(victim)
    world.await_calm()
    demand(status == 0, f"{victim.name} ended with status {status} on SIGTERM")
    demand(owned <= _assigned_since(world, since), f"{owned} were not assigned to others")
    return f"{victim.name} was removed, and others took its {_of(owned)}"


def roll_brokers(world: World) -> str:
    """Each broker is stopped in order and started again, one after the other."""
    for node in world.kafka.nodes:
        node.stop()
        world.kafka.start_node(node)
        world.await_in_sync()
    world.await_calm()
    return f"{len(world.kafka.nodes)} brokers were restarted, one after the other"


def kill_coordinator(world: World) -> str:
    """Kill -9 of the node that coordinates the transactions of a partition."""
    partition = world.random.randrange(PARTITIONS)
    return _kill_node(world, f"coordinator of partition {partition}'s transactions", partition)


def kill_ingress_leader(world: World) -> str:
    """Kill -9 of the leader of an ingress partition."""
    partition = world.random.randrange(PARTITIONS)
    return _kill_leader(world, world.names.jobs, partition)


def kill_changelog_leader(world: World) -> str:
    """Kill -9 of the leader of a changelog partition."""
    partition = world.random.randrange(PARTITIONS)
    return _kill_leader(world, world.names.changelog, partition)


def kill_egress_leader(world: World) -> str:
    """Kill -9 of the leader of one tenant's topic."""
    return _kill_leader(world, world.names.egress(world.random.choice(DOOMED)), 0)


def outage(world: World, seconds: float) -> str:
    """Every broker is killed, and all come back after a while."""
    began_ms = now_ms()
    world.kafka.kill()
    _pause(world, seconds, seconds)
    world.kafka.start()
    world.await_in_sync()
    world.await_calm()
    away_seconds = (now_ms() - began_ms) / 1000
    return f"all brokers were dead for {seconds:.0f} s; calm {away_seconds:.0f} s after the kill"


def delete_topic(world: World) -> str:
    """A tenant's topic is deleted while jobs go there; the scheduler makes it again."""
    return _delete(world, world.names.egress(world.random.choice(DOOMED)))


def delete_moved_topic(world: World) -> str:
    """The same with a topic that has lost its leader: its next epochs are below those known."""
    topic = world.names.egress(world.random.choice(DOOMED))
    return f"{_kill_leader(world, topic, 0)}; {_delete(world, topic)}"


def share_folder(world: World) -> str:
    """A second scheduler on the folder of another one: it must refuse, and disturb nobody."""
    victim = world.busy_member()
    since = _log_sizes(world)
    second = world.new_member()
    second.use_folder_of(victim)
    second.start()
    try:
        status = second.wait_ended()
    finally:
        second.kill()
    world.await_calm()
    said = [str(line.get("event")) for line in second.log_lines() if REFUSAL in str(line)]
    demand(status == 1 and said, f"status {status}: {second.log()[-1_000:]}")
    demand(not _assigned_since(world, since), "the group has rebalanced because of it")
    return f"a second scheduler on the folder of {victim.name} refused: {said[-1]}"


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault; `nodes_min` brokers are needed for it."""

    name: str
    run: Callable[[World], str]
    kind: str
    nodes_min: int = 1


def all_faults(outage_seconds: float) -> Sequence[Fault]:
    """Every fault there is."""
    return (
        Fault("kill", kill, "scheduler"),
        Fault("hang", hang, "zombie"),
        Fault("restart", restart, "scheduler"),
        Fault("scale", scale, "members"),
        Fault("roll brokers", roll_brokers, "members"),
        Fault("outage", lambda world: outage(world, outage_seconds), "outage"),
        Fault("kill coordinator", kill_coordinator, "broker", 3),
        Fault("kill ingress leader", kill_ingress_leader, "broker", 3),
        Fault("kill changelog leader", kill_changelog_leader, "broker", 3),
        Fault("kill egress leader", kill_egress_leader, "broker", 3),
        Fault("delete topic", delete_topic, "topic"),
        Fault("delete moved topic", delete_moved_topic, "broker", 3),
        Fault("lose state", state.lose_state, "state"),
        Fault("corrupt manifest", state.corrupt_manifest, "state"),
        Fault("corrupt tables", state.corrupt_tables, "state"),
        Fault("corrupt log", state.corrupt_log, "state"),
        Fault("restore old state", state.restore_old_state, "state"),
        Fault("share folder", share_folder, "members"),
    )


# --- parts of faults ---------------------------------------------------------------------------


def _delete(world: World, topic: str) -> str:
    before = admin.topic_ids(world.admin, [topic])
    demand(before, f"{topic} was not there to be deleted")
    number = world.reader.incarnations.get(topic, 0)
    began_ms = now_ms()
    world.reader.expect_deletion(topic)
    world.admin.delete_topics([topic])[topic].result(30)
    world.reader.note_deletion(topic, before[topic])
    world.deletions.append(Deletion(topic, began_ms, now_ms() + DELETION_SHOWS_MS))
    world.await_true(f"{topic} is there again", lambda: partition_count(world.admin, topic) == 1)
    world.await_true(
        f"jobs leave for the new {topic}", lambda: _dispatched_to(world, f"{topic}~{number + 1}")
    )
    world.await_calm()
    return f"{topic} was deleted and made again, and jobs went there"


def _kill_leader(world: World, topic: str, partition: int) -> str:
    node = world.leader(topic, partition)
    return _kill(world, node.node_id, f"leader of {topic}-{partition}")


def _kill_node(world: World, what: str, partition: int) -> str:
    return _kill(world, world.coordinator(partition).node_id, what)


def _kill(world: World, node_id: int, what: str) -> str:
    node = world.kafka.nodes[node_id - 1]
    node.kill()
    killed_ms = now_ms()
    _pause(world, *NODE_AWAY_SECONDS)
    # The others must go on without it.
    world.await_true(
        "dispatches go on with one node away", lambda: world.dispatches_since(killed_ms + 1_000) > 0
    )
    served_ms = now_ms() - killed_ms
    world.kafka.start_node(node)
    world.await_in_sync()
    world.await_calm()
    return f"node {node_id}, {what}, was killed; jobs left {served_ms} ms later without it"


def _dispatched_to(world: World, line: str) -> bool:
    with world.reader.lock:
        return any(one.line[0] == line for one in reversed(world.reader.ledger.dispatches))


def _log_sizes(world: World) -> Mapping[str, int]:
    return {member.name: member.log_size() for member in world.members}


def _assigned_since(world: World, since: Mapping[str, int]) -> set[int]:
    found: set[int] = set()
    for member in world.members:
        for line in events_named(member.log_lines(since.get(member.name, 0)), ASSIGNED):
            found.update(line["partitions"])
    return found


def _generation(lines: Sequence[LogLine]) -> int:
    return max((line["generation"] for line in events_named(lines, ASSIGNED)), default=-1)


ASSIGNED: Final = "partitions assigned"


def _of(partitions: set[int]) -> str:
    return "partitions " + ", ".join(map(str, sorted(partitions)))


def _pause(world: World, least: float, most: float) -> None:
    """Let time pass: how long a fault lasts is part of it, and drawn from the seed."""
    time.sleep(world.random.uniform(least, most))
