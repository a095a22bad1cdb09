"""What happens in the demo: 20 tenants, and what is done to them when."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Habit(StrEnum):
    """What a tenant does besides submitting jobs."""

    NONE = ""
    CANCELS = "cancels one job in five"
    REPLACES = "replaces one job in five"
    EXPIRES = "jobs expire"
    BAD = "sends bad records, too"


@dataclass(frozen=True, slots=True)
class TenantPlan:
    """One tenant and its traffic."""

    name: str
    rate: str
    jobs_per_second: float
    note: str = ""
    """At most 14 characters, so that the table fits 80 columns."""
    burst: int = 1
    backlog: int = 0
    """Jobs that are due at once when traffic begins."""
    habit: Habit = Habit.NONE
    together: int = 1
    """How many jobs at a time have one due time."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something that is done to a tenant, or to the scheduler, during traffic."""

    at_share: float
    """When, as a share of the time of traffic."""
    action: str
    tenant: str = ""
    rate: str = ""


KILL: Final = "kill"
PAUSE: Final = "pause"
RESUME: Final = "resume"
SET_RATE: Final = "set rate"
INVALID: Final = "invalid settings"

TENANTS: Final[Sequence[TenantPlan]] = (
    TenantPlan("acme", "1/2s", 0.2, "slow"),
    TenantPlan("birch", "1/2s", 0, "backlog", backlog=80),
    TenantPlan("cedar", "5/s", 2, "broken setting"),
    TenantPlan("dune", "5/s", 0, "backlog", backlog=500),
    TenantPlan("ember", "10/s", 150, "15x its rate"),
    TenantPlan("fjord", "10/s", 5, "cancels", habit=Habit.CANCELS),
    TenantPlan("grove", "10/s", 2, "burst 20", burst=20, together=10),
    TenantPlan("harbor", "40/s", 20),
    TenantPlan("iris", "40/s", 20, "replaces", habit=Habit.REPLACES),
    TenantPlan("juniper", "40/s", 20, "paused a while"),
    TenantPlan("kelp", "40/s", 0, "backlog", backlog=3_500),
    TenantPlan("lagoon", "20/s", 0, "rate changes", backlog=4_500),
    TenantPlan("maple", "200/s", 80),
    TenantPlan("nova", "5/s", 10, "jobs expire", habit=Habit.EXPIRES),
    TenantPlan("opal", "200/s", 60, "bad records", habit=Habit.BAD),
    TenantPlan("pine", "1500/s", 600, "3,000 at once", backlog=3_000),
    TenantPlan("quartz", "unlimited", 200),
    TenantPlan("reef", "unlimited", 60, "60 at a time", together=60),
    TenantPlan("sage", "200/s", 40, "paused at kill"),
    TenantPlan("tundra", "unlimited", 20),
)

STEPS: Final[Sequence[Step]] = (
    Step(0.16, PAUSE, "juniper"),
    Step(0.22, SET_RATE, "lagoon", "80/s"),
    Step(0.28, INVALID, "cedar"),
    Step(0.32, RESUME, "juniper"),
    Step(0.36, PAUSE, "sage"),
    Step(0.46, KILL),
    Step(0.78, RESUME, "sage"),
    Step(0.82, SET_RATE, "lagoon", "10/s"),
)

STAY_THROTTLED: Final = frozenset({"birch"})
"""Tenants that keep their rate in the end; that of all others is lifted, so that all jobs leave."""

LEAD_SECONDS: Final = (0.5, 3.0)
"""How far ahead of their due time jobs are submitted."""
