"""What the runners of a process use together, and the phases that each goes through."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from streamsched.core.settings_view import SettingsView
from streamsched.engine.cluster import Cluster
from streamsched.engine.metrics import Metrics
from streamsched.engine.partitions import Ingress
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
    """What all runners of a process use together."""

    settings: Settings
    cluster: Cluster
    ingress: Ingress
    view: SettingsView
    directory: EgressDirectory
    metrics: Metrics
    threads: Threads
    clock_ms: Callable[[], int]
