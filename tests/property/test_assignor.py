"""Who works on which partition through joins and losses."""

from collections import Counter

from faust.assignor.client_assignment import CopartitionedAssignment
from hypothesis import given
from hypothesis import strategies as st

from streamsched.engine.assignor import share_out

Members = dict[str, CopartitionedAssignment]
STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=12)
"""Whether somebody joins, else leaves, and who."""


def members(count: int) -> Members:
    """So many that have nothing yet."""
    return {f"m{number}": CopartitionedAssignment() for number in range(count)}


def check_all_is_assigned(group: Members, partitions: int, replicas: int) -> None:
    """Everything is active once, followed elsewhere, and nobody has two more than another."""
    counts = [len(member.actives) for member in group.values()]
    assert sorted(n for member in group.values() for n in member.actives) == [*range(partitions)]
    assert max(counts) - min(counts) <= 1
    followed = Counter(n for member in group.values() for n in member.standbys)
    wanted = min(replicas, len(group) - 1)
    assert [followed[number] for number in range(partitions)] == [wanted] * partitions
    assert all(member.actives.isdisjoint(member.standbys) for member in group.values())
    follows = [len(member.standbys) for member in group.values()]
    assert max(follows) - min(follows) <= 1


@given(st.integers(1, 40), st.integers(0, 2), st.integers(1, 6), STEPS)
def test_all_is_assigned_evenly_with_the_fewest_moves(
    partitions: int, replicas: int, at_first: int, steps: list[tuple[bool, int]]
) -> None:
    """Whoever joins or leaves: nobody who stays gives up more than what is above its share."""
    group = members(at_first)
    share_out(group, partitions, replicas)
    check_all_is_assigned(group, partitions, replicas)
    for joins, who in steps:
        name = f"m{who}"
        if joins:
            group.setdefault(name, CopartitionedAssignment())
        elif len(group) > 1:
            group.pop(name, None)
        had = {name: set(member.actives) for name, member in group.items()}
        share_out(group, partitions, replicas)
        check_all_is_assigned(group, partitions, replicas)
        settled = {name: (member.actives, member.standbys) for name, member in group.items()}
        share_out(group, partitions, replicas)
        assert settled == {name: (one.actives, one.standbys) for name, one in group.items()}
        least, larger = divmod(partitions, len(group))
        kept = sum(len(had[name] & member.actives) for name, member in group.items())
        most_first = sorted(map(len, had.values()), reverse=True)
        assert kept == sum(min(n, least + (i < larger)) for i, n in enumerate(most_first))


def test_a_fifth_scheduler_gets_its_share() -> None:
    """Of 16 partitions, though no member has more than its share rounded up."""
    group = members(4)
    share_out(group, 16, 1)
    group["new"] = CopartitionedAssignment()
    share_out(group, 16, 1)
    assert len(group["new"].actives) == 3


def test_whoever_was_thought_lost_keeps_what_it_had() -> None:
    """Others took it over meanwhile, and give up that before what they had."""
    group = members(3)
    share_out(group, 12, 1)
    had = {name: set(member.actives) for name, member in group.items()}
    away = group.pop("m0")
    share_out(group, 12, 1)
    group["m0"] = away
    share_out(group, 12, 1)
    assert {name: member.actives for name, member in group.items()} == had


def test_whoever_follows_a_lost_partition_takes_it_over() -> None:
    """All that the lost member had goes to its followers, where they have room."""
    group = members(1)
    for name in ("m0", "m1", "m2"):
        group[name] = CopartitionedAssignment()
        share_out(group, 12, 1)
    lost = group.pop("m0").actives
    followed = {name: set(member.standbys) for name, member in group.items()}
    share_out(group, 12, 1)
    for name, member in group.items():
        assert member.actives & lost <= followed[name]
