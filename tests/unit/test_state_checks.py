"""What local state, topics and group must have in common, or be refused with a sentence."""

import pytest

from streamsched.core import state
from streamsched.core.state import Position
from streamsched.core.store import META, Write
from streamsched.engine.cluster import Cluster
from streamsched.engine.reader import StartError
from streamsched.engine.state_checks import (
    reason_to_rebuild,
    refuse_foreign_ingress,
    refuse_lost_state,
    truncated_ingress,
)
from streamsched.settings import Settings
from streamsched.store.memory import MemoryStore

RETENTION_MS = 1_000_000
NOW_MS = 1_800_000_000_000
CLUSTER = Cluster(4, "jobs", "changelog", "settings", RETENTION_MS)
SETTINGS = Settings(app_id="test")


def store_of(age_ms: int | None, topic_id: str = "changelog", seen_ago_ms: int = 0) -> MemoryStore:
    """A store whose last cycle was so long ago, and that was last seen current so long ago."""
    store = MemoryStore()
    rows: list[Write] = [
        (META, state.CHANGELOG_KEY, state.encode_changelog_offset(9, topic_id)),
    ]
    if age_ms is not None:
        position = Position(5, NOW_MS - age_ms, "jobs")
        rows.append((META, state.POSITION_KEY, state.encode_position(position)))
    if seen_ago_ms:
        rows.append((META, state.CURRENT_KEY, state.encode_now(NOW_MS - seen_ago_ms)))
    store.write(rows)
    return store


@pytest.mark.parametrize(
    ("store", "is_stale"),
    [
        (MemoryStore(), False),
        (store_of(None), False),
        (store_of(RETENTION_MS // 2), False),
        (store_of(RETENTION_MS // 2 + 1), True),
        (store_of(RETENTION_MS * 5, seen_ago_ms=1_000), False),
        (store_of(RETENTION_MS * 5, seen_ago_ms=RETENTION_MS), True),
        (store_of(0, seen_ago_ms=RETENTION_MS), False),
    ],
    ids=["empty", "no cycle yet", "young", "old", "followed", "followed long ago", "owned since"],
)
def test_state_ages_by_when_it_was_last_current(store: MemoryStore, is_stale: bool) -> None:  # noqa: FBT001
    """Half of the retention of tombstones, from the last cycle or from when it was followed."""
    reason = reason_to_rebuild(store, "here", CLUSTER, NOW_MS)
    assert bool(reason) is is_stale
    if is_stale:
        assert "tombstones" in reason


def test_state_of_a_recreated_changelog_is_refused() -> None:
    """By the id of the topic, however young the state is."""
    with pytest.raises(StartError, match=r"local state here .*made anew.*Remove the folder"):
        reason_to_rebuild(store_of(0, "another"), "here", CLUSTER, NOW_MS)


@pytest.mark.parametrize("committed", [None, 0])
def test_a_group_that_has_read_nothing_needs_no_state(committed: int | None) -> None:
    """Neither an offset that was never committed nor one of 0 stands for a job."""
    refuse_lost_state(SETTINGS, 2, committed)


def test_a_group_offset_without_state_is_refused() -> None:
    """Jobs were accepted and the changelog does not have them."""
    with pytest.raises(StartError, match=r"test\.jobs-2 up to 1.*lost.*consumer group 'test'"):
        refuse_lost_state(SETTINGS, 2, 1)


def test_a_recreated_ingress_is_refused() -> None:
    """By the id of the topic, though the offset would be there."""
    with pytest.raises(StartError, match=r"test\.jobs was deleted and made anew.*remove here"):
        refuse_foreign_ingress(SETTINGS, 0, Position(5, 0, "old"), 0, "new", "here")


def test_an_ingress_that_begins_above_the_state_is_refused() -> None:
    """Records were deleted before they were read; at the first one all is well."""
    refuse_foreign_ingress(SETTINGS, 0, Position(5, 0, "jobs"), 5, "jobs", "here")
    with pytest.raises(StartError, match=r"begins at offset 6, but the state goes on at 5"):
        refuse_foreign_ingress(SETTINGS, 0, Position(5, 0, "jobs"), 6, "jobs", "here")


def test_an_ingress_that_ends_below_the_state_is_told() -> None:
    """The topic has lost records; at its end all is well."""
    assert not truncated_ingress(SETTINGS, 0, Position(5, 0, "jobs"), 5)
    assert "ends at offset 4" in truncated_ingress(SETTINGS, 0, Position(5, 0, "jobs"), 4)
