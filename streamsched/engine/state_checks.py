"""Whether local state and the topics it came from still belong together.

What can be rebuilt is rebuilt; what would silently lose or repeat jobs is refused, with a sentence
that says what was found and what to do.
"""

from streamsched.core import state
from streamsched.core.state import Position
from streamsched.core.store import META, Reader
from streamsched.engine.cluster import Cluster
from streamsched.engine.reader import StartError
from streamsched.settings import Settings


def reason_to_rebuild(store: Reader, place: str, cluster: Cluster, now_ms: int) -> str:
    """Why local state, which lies at `place`, may have missed tombstones; empty if it has not.

    Where the log has nothing new for it, it has missed nothing, however old it is.

    Raises `StartError` if the changelog it was built from is not the one there is now.
    """
    value = store.get(META, state.CHANGELOG_KEY)
    if value is None:
        return ""
    _, topic_id = state.decode_changelog_offset(value)
    if topic_id != cluster.changelog_topic_id:
        raise StartError(
            f"local state {place} was built from another changelog topic than the one there "
            "is now: that topic was deleted and made anew. Remove the folder to accept the loss "
            "of what the old topic held"
        )
    value = store.get(META, state.POSITION_KEY)
    if value is None:
        return ""
    current_ms = state.decode_position(value).now_ms
    value = store.get(META, state.CURRENT_KEY)
    if value is not None:
        # A standby notes it: where nothing happens, the position stands still.
        current_ms = max(current_ms, state.decode_now(value))
    age_ms = now_ms - current_ms
    if age_ms > cluster.state_age_ms_max:
        return f"it is {age_ms // 1000} s old, so it may have missed tombstones"
    return ""


def refuse_lost_state(settings: Settings, partition: int, committed: int | None) -> None:
    """Raise `StartError` where the group has read a partition of which there is no state.

    An offset of 0 says that nothing was read.
    """
    if not committed:
        return
    raise StartError(
        f"the group has read {settings.names.jobs}-{partition} up to {committed}, but the "
        f"changelog {settings.names.changelog} has no state of it: jobs accepted before are lost. "
        f"Restore the changelog, or delete the consumer group {settings.app_id!r} to begin anew"
    )


def refuse_foreign_ingress(
    settings: Settings,
    partition: int,
    position: Position,
    first: int,
    jobs_topic_id: str,
    place: str,
) -> None:
    """Raise `StartError` where the ingress topic cannot be gone on with at `position`.

    `first` is the earliest offset that the partition holds.
    """
    topic = settings.names.jobs
    if position.topic_id != jobs_topic_id:
        raise StartError(
            f"topic {topic} was deleted and made anew since partition {partition} was read up to "
            "an offset of the old one. To begin anew, delete the topic "
            f"{settings.names.changelog}, apply the topics again, and remove {place}"
        )
    if position.next_offset < first:
        raise StartError(
            f"{topic}-{partition} begins at offset {first}, but the state goes on at "
            f"{position.next_offset}: records were deleted before they were read. Raise the "
            "topic's retention"
        )


def truncated_ingress(settings: Settings, partition: int, position: Position, end: int) -> str:
    """Why the state is ahead of the ingress partition, which ends at `end`; empty if it is not.

    A new leader can be behind for a moment, so this is looked at again before it is believed.
    """
    if position.next_offset <= end:
        return ""
    return (
        f"{settings.names.jobs}-{partition} ends at offset {end}, but the state goes on at "
        f"{position.next_offset}: the topic has lost records. Restore it, or begin anew with a "
        "topic and a changelog made anew"
    )
