"""What the runners of a process use together, and the phases that each goes through."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from streamsched.core.settings_view import SettingsView
from streamsched.engine.changelog import ChangelogSource
from streamsched.engine.cluster import Cluster
from streamsched.engine.metrics import Metrics
from streamsched.engine.partitions import Ingress
from streamsched.engine.producer import PartitionProducer
from streamsched.engine.pulse import Pulse
from streamsched.engine.stores import Stores
from streamsched.engine.threads import Threads
from streamsched.kafka.directory import EgressDirectory
from streamsched.settings import Settings


class Phase(StrEnum):
    """What a partition is doing; `ready` is the only one in which jobs are dispatched."""

    FENCING = "fencing"
    REPLAYING = "replaying"
    WAITING_FOR_SETTINGS = "waiting_for_settings"
    READY = "ready"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Shared:
    """What all runners of a process use together.

    Whatever they touch of the world outside, time, disk and broker, they touch through this, so
    that a simulation can put its own in the place of each.
    """

    settings: Settings
    cluster: Cluster
    ingress: Ingress
    view: SettingsView
    directory: EgressDirectory
    metrics: Metrics
    pulse: Pulse
    threads: Threads
    stores: Stores
    make_producer: Callable[[int], PartitionProducer]
    """A producer for the partition of that number."""
    open_changelog: Callable[[int], ChangelogSource]
    look_at_topics: Callable[[], Awaitable[bool]]
    """Before a log is trusted: `TopicWatch.look`."""
    missing_rights: Callable[[], Sequence[str]]
    """A sentence for each right on our own topics and group that is missing; blocks."""
    clock_ms: Callable[[], int]
    """Wall clock; may step."""
    monotonic: Callable[[], float]
    """Seconds of no particular epoch; never steps."""
