"""Who works on which partition, and who follows it: Faust's assignor with even shares.

Faust's own lets every member keep up to its share rounded up, so that little moves: of 16
partitions a fifth scheduler beside four gets none.
"""

from collections import Counter
from collections.abc import Mapping, MutableMapping, Sequence

from faust.assignor import partition_assignor
from faust.assignor.client_assignment import CopartitionedAssignment
from faust.assignor.copartitioned_assignor import CopartitionedAssignor

Members = Mapping[str, CopartitionedAssignment]
"""What each member has had, and gets: sets of partitions, `actives` and `standbys`."""


def share_out(members: Members, partitions: int, replicas: int) -> None:
    """Change what `members` have so that all is assigned, evenly, with as few moves as that takes.

    Each partition is active with one member and standby with `replicas` others, or with as many
    as there are. No member has two active partitions more than another, nor two standby ones.
    Whoever follows a partition is given it rather than somebody who would have to read it from
    the beginning.
    """
    _share_actives(members, partitions)
    standbys = _Standbys(members, partitions, min(replicas, len(members) - 1))
    standbys.complete()
    for name, member in members.items():
        member.standbys = standbys.follows[name]


def _share_actives(members: Members, partitions: int) -> None:
    claims = Counter(number for member in members.values() for number in member.actives)
    owners: dict[int, str] = {}
    # The larger shares go to those that have most already. By name, so that all is repeatable.
    ranked = sorted(members, key=lambda name: (-len(members[name].actives), name))
    room = _shares(ranked, partitions)
    for name in ranked:
        # A topic that was made anew can have fewer partitions than are claimed.
        claimed = members[name].actives & {*range(partitions)} - owners.keys()
        # What another one claims, too, because its owner was thought lost, is given up first.
        kept = sorted(claimed, key=lambda number: (claims[number] > 1, number))[: room[name]]
        owners |= dict.fromkeys(kept, name)
        room[name] -= len(kept)
    free = [number for number in range(partitions) if number not in owners]
    # Those first that few follow, before the room of their followers is taken.
    free.sort(key=lambda number: len(_followers(members, room, number)) or len(members))
    for number in free:
        candidates = _followers(members, room, number) or [name for name in room if room[name]]
        chosen = max(candidates, key=lambda name: room[name])
        owners[number] = chosen
        room[chosen] -= 1
    for name, member in members.items():
        member.actives = {number for number, owner in owners.items() if owner == name}


def _followers(members: Members, room: Mapping[str, int], number: int) -> list[str]:
    """Who follows a partition and has room for it."""
    return [name for name in room if room[name] and number in members[name].standbys]


class _Standbys:
    """Who follows what, being made."""

    def __init__(self, members: Members, partitions: int, replicas: int) -> None:
        """Each member goes on with what it follows, up to its share."""
        self._members = members
        # Whoever works on fewer follows more: of two each follows all that the other works on.
        ranked = sorted(members, key=lambda name: (len(members[name].actives), name))
        self._share = _shares(ranked, partitions * replicas)
        self.follows: dict[str, set[int]] = {name: set() for name in ranked}
        self._missing = dict.fromkeys(range(partitions), replicas)
        for name in ranked:
            before = sorted(members[name].standbys - members[name].actives)
            kept = [number for number in before if self._missing.get(number)][: self._share[name]]
            self.follows[name].update(kept)
            for number in kept:
                self._missing[number] -= 1

    def complete(self) -> None:
        """Find followers for what has too few."""
        for number, count in self._missing.items():
            for _ in range(count):
                if not self._place(number, set()):
                    others = self._others(number, set())
                    least = min(others, key=lambda name: len(self.follows[name]))
                    self.follows[least].add(number)

    def _place(self, number: int, tried: set[str]) -> bool:
        """Give it to somebody with room, or with something that another one can follow instead."""
        room = {name: self._share[name] - len(self.follows[name]) for name in self.follows}
        for name in sorted(self._others(number, tried), key=lambda name: -room[name]):
            tried.add(name)
            if room[name] <= 0:
                theirs = sorted(self.follows[name])
                given = next((one for one in theirs if self._place(one, tried)), None)
                if given is None:
                    continue
                self.follows[name].remove(given)
            self.follows[name].add(number)
            return True
        return False

    def _others(self, number: int, tried: set[str]) -> list[str]:
        """Who neither works on it nor follows it, and was not tried."""
        return [
            name
            for name, followed in self.follows.items()
            if name not in tried and number not in self._members[name].actives | followed
        ]


def _shares(ranked: Sequence[str], count: int) -> dict[str, int]:
    """Even parts of `count`; the first of `ranked` have one more where they are not equal."""
    least, larger = divmod(count, len(ranked))
    return {name: least + (rank < larger) for rank, name in enumerate(ranked)}


class EvenAssignor(CopartitionedAssignor):
    """In the place of Faust's, which decides for all topics of equal partitions at once."""

    def get_assignment(self) -> MutableMapping[str, CopartitionedAssignment]:
        """What each member gets, by its id."""
        share_out(self._client_assignments, self.num_partitions, self.replicas)
        return self._client_assignments


def install() -> None:
    """Let Faust's assignor share out by this; it has no setting for that."""
    partition_assignor.CopartitionedAssignor = EvenAssignor  # type: ignore[attr-defined]
