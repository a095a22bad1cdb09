"""A tenant as its partition keeps it in memory: nothing in here grows with pending jobs."""

from streamsched.core.rate import Rate
from streamsched.core.tenant_settings import NOTHING, EffectiveSettings, OwnSettings


class Tenant:
    """Settings in force, limiter, counts and place in the queue of one tenant."""

    __slots__ = (
        "at_ticks",
        "blocked",
        "blocked_detail",
        "effective",
        "free_since_ms",
        "head",
        "name",
        "own",
        "own_invalid",
        "own_offset",
        "pace",
        "pending",
        "raw",
        "ready",
        "seen",
        "turn_at_ms",
        "waiting",
    )

    def __init__(self, name: str, effective: EffectiveSettings) -> None:
        """A tenant that was never seen."""
        self.name = name
        self.raw = name.encode()
        self.own: OwnSettings = NOTHING
        self.own_offset = -1
        """Offset of the record that `own` came from; -1 if of a former settings topic, or none."""
        self.own_invalid = False
        """Whether the tenant's record is invalid and no valid one before it is known."""
        self.effective = effective
        self.pace: tuple[Rate, int] | None = effective.pace
        """The rate and burst that `at_ticks` is counted in; `None` is unlimited."""
        self.at_ticks: int | None = None
        """Theoretical time of the next job; `None` where unlimited, and before the first job."""
        self.pending = 0
        self.ready = 0
        self.head: tuple[int, int] = (0, 0)
        """Nothing of the tenant in `ready` lies below this (due_ms, sequence)."""
        self.seen = False
        """Whether a job of the tenant was ever accepted here with its settings known."""
        self.waiting = False
        """Whether jobs have waited for the rate since the limiter was last asked."""
        self.blocked = ""
        """Why nothing may leave at any rate: `paused`, `settings_invalid`, or a topic's problem."""
        self.blocked_detail = ""
        self.free_since_ms = 0
        """When it was last unblocked; what it waited before is not the scheduler's doing."""
        self.turn_at_ms: int | None = None
        """The moment of the tenant's valid entry in the queue of turns."""

    def status(self) -> str:
        """One word for people: what the tenant's due jobs are waiting for."""
        if self.blocked:
            return "paused" if self.blocked == PAUSED else "unconfigured"
        return "throttled" if self.ready else "ok"


PAUSED = "paused"
SETTINGS_INVALID = "settings_invalid"
