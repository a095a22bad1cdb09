"""Who works on which partition, and who follows it: Faust's assignor with even shares.

Faust's own lets every member keep up to its share rounded up, so that little moves: of 16
partitions a fifth scheduler beside four gets none.
"""

from collections.abc import Mapping, MutableMapping

from faust.assignor import partition_assignor
from faust.assignor.client_assignment import CopartitionedAssignment
from faust.assignor.copartitioned_assignor import CopartitionedAssignor

Members = Mapping[str, CopartitionedAssignment]
"""What each member has had, and gets: sets of partitions, `actives` and `standbys`."""


def share_out(members: Members, partitions: int, replicas: int) -> None:
    """Change what `members` have so that all is assigned, evenly, with as few moves as that takes.

    Each partition is active with one member and standby with `replicas` others, or with as many
    as there are. No member has two active partitions more than another. Whoever follows a
    partition is given it rather than somebody who would have to read it from the beginning.
    """
    _share_actives(members, partitions)
    _share_standbys(members, partitions, min(replicas, len(members) - 1))


def _share_actives(members: Members, partitions: int) -> None:
    owners: dict[int, str] = {}
    # The larger shares go to those that have most already. By name, so that all is repeatable.
    ranked = sorted(members, key=lambda name: (-len(members[name].actives), name))
    least, larger = divmod(partitions, len(members))
    share = {name: least + (rank < larger) for rank, name in enumerate(ranked)}
    for name in ranked:
        # Two can claim one partition, and a topic that was made anew can have fewer.
        kept = sorted(members[name].actives & {*range(partitions)} - owners.keys())[: share[name]]
        owners |= dict.fromkeys(kept, name)
    room = {name: share[name] - list(owners.values()).count(name) for name in ranked}
    free = [number for number in range(partitions) if number not in owners]
    # Those first that somebody follows, before the room of their followers is taken.
    for number in sorted(free, key=lambda number: not _followers(members, room, number)):
        candidates = _followers(members, room, number) or [name for name in room if room[name]]
        chosen = max(candidates, key=lambda name: room[name])
        owners[number] = chosen
        room[chosen] -= 1
    for name, member in members.items():
        member.actives = {number for number, owner in owners.items() if owner == name}


def _followers(members: Members, room: Mapping[str, int], number: int) -> list[str]:
    """Who follows a partition and has room for it."""
    return [name for name in room if room[name] and number in members[name].standbys]


def _share_standbys(members: Members, partitions: int, replicas: int) -> None:
    share = -(-partitions * replicas // len(members))
    before = {name: member.standbys for name, member in members.items()}
    follows: dict[str, set[int]] = {name: set() for name in sorted(members)}
    for number in range(partitions):
        others = [name for name in follows if number not in members[name].actives]

        def burden(name: str, number: int = number) -> tuple[bool, bool, int]:
            """Of whoever has room, those that follow it already, and then the least loaded."""
            load = len(follows[name])
            return load >= share, number not in before[name], load

        for name in sorted(others, key=burden)[:replicas]:
            follows[name].add(number)
    for name, member in members.items():
        member.standbys = follows[name]


class EvenAssignor(CopartitionedAssignor):
    """In the place of Faust's, which decides for all topics of equal partitions at once."""

    def get_assignment(self) -> MutableMapping[str, CopartitionedAssignment]:
        """What each member gets, by its id."""
        share_out(self._client_assignments, self.num_partitions, self.replicas)
        return self._client_assignments


def install() -> None:
    """Let Faust's assignor share out by this; it has no setting for that."""
    partition_assignor.CopartitionedAssignor = EvenAssignor  # type: ignore[attr-defined]
