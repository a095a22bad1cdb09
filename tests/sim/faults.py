"""Which of the things that can go wrong do, at the point where they can."""

import random
from collections import Counter

KINDS = (
    "init is busy",
    "produce raises",
    "batch is cut",
    "transaction times out",
    "commit is lost",
    "commit is refused",
    "answer to commit is late",
    "answer to commit is lost",
    "abort is lost",
    "changelog is unreadable",
    "ingress is unreadable",
    "crash",
)
"""Faults that strike at a call; those of whole processes are events of a scenario."""


OUTAGE = frozenset(
    {
        "init is busy",
        "commit is lost",
        "abort is lost",
        "changelog is unreadable",
        "ingress is unreadable",
    }
)
"""What every call meets while no broker can be reached."""


class Faults:
    """Rates by kind, as long as faults are on; and single ones that were armed."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.rates: dict[str, float] = {}
        self.armed: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.is_on = True
        self.is_outage = False
        self.latency_seconds_max = 0.004
        self.missing_topic_seconds = 10.0

    def strikes(self, kind: str) -> bool:
        """Whether the fault happens now."""
        if self.is_outage and kind in OUTAGE:
            pass
        elif self.armed[kind]:
            self.armed[kind] -= 1
        elif not self.is_on or self.rng.random() >= self.rates.get(kind, 0.0):
            return False
        self.struck[kind] += 1
        return True

    def stop(self) -> None:
        """Nothing goes wrong any more."""
        self.is_on = self.is_outage = False
        self.armed.clear()
