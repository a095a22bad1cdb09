"""The checker: judges a scheduler by its topics alone, and knows nothing of its inside.

It may use the names of topics and headers, and what the contract says; nothing here imports the
code that schedules, so a fault there cannot hide itself here.
"""

from collections.abc import Callable, Sequence
from typing import Final

from streamsched.demo.check_lateness import check_lateness, check_recovery
from streamsched.demo.check_order import check_order
from streamsched.demo.check_outcomes import (
    check_identity,
    check_once,
    check_records,
    check_rejected,
    check_time,
)
from streamsched.demo.check_rates import check_change, check_nominal, check_pause, check_windows
from streamsched.demo.evidence import Evidence, Facts
from streamsched.demo.ledger import Ledger
from streamsched.demo.verdict import Verdict

CHECKS: Final[Sequence[Callable[[Evidence], Verdict]]] = (
    check_once,
    check_time,
    check_identity,
    check_records,
    check_rejected,
    check_windows,
    check_nominal,
    check_change,
    check_pause,
    check_order,
    check_lateness,
    check_recovery,
)


def judge(ledger: Ledger, facts: Facts) -> list[Verdict]:
    """Check every promise on what was read; the ledger must be complete."""
    evidence = Evidence(ledger, facts)
    return [check(evidence) for check in CHECKS]
