"""What the core knows of the topics that jobs leave to.

The core never asks the broker. It looks a topic up in a directory that is kept current outside
the data path, and a job enters a transaction only when its topic is known to be good: one bad
topic would abort the whole transaction.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Problem(StrEnum):
    """Why a topic may not be written to at the moment."""

    UNKNOWN = "topic_unknown"  #: not looked at yet
    MISSING = "topic_missing"  #: does not exist, and could not be created
    LIMIT = "topic_limit"  #: would be one more than `egress_topics_max`
    COMPACTED = "topic_compacted"  #: compaction would eat dispatched jobs
    FORBIDDEN = "topic_forbidden"  #: we may not write to it
    LEADERLESS = "topic_leaderless"  #: a partition has no leader
    TOO_SMALL = "topic_too_small"  #: `max.message.bytes` is below what the job needs
    REFUSES = "topic_refuses"  #: the broker refuses records for it
    SUSPECT = "topic_suspect"  #: was part of a failed transaction and is being checked again


@dataclass(frozen=True, slots=True)
class Destination:
    """One topic as last seen: `partitions` > 0 and `problem` is None when it may be written to."""

    topic: str
    partitions: int
    max_message_bytes: int
    problem: Problem | None = None
    detail: str = ""


class Directory(Protocol):
    """Read side of the directory; look-ups are from memory."""

    @property
    def version(self) -> int:
        """Grows whenever any destination changes."""
        ...

    def lookup(self, topic: str) -> Destination | None:
        """The topic as last seen, or `None` where nobody asked for it yet."""
        ...

    def want(self, topic: str, partitions: int) -> None:
        """Ask for `topic` to be looked at, and created with `partitions` where it is missing.

        Returns at once; the answer appears in `lookup` later, with a new `version`.
        """
        ...
