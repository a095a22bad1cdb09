"""A tenant's rate: `COUNT/PERIOD`, exact."""

import re
from dataclasses import dataclass

from streamsched.core.limits import RATE_COUNT_MAX, RATE_PERIOD_MS_MAX

UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

_RATE = re.compile(r"([0-9]{1,19})/([0-9]{0,19})(ms|s|m|h|d)", re.ASCII)

UNLIMITED = "unlimited"


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` jobs in `period_ms` milliseconds, spread evenly: one every period_ms/count."""

    count: int
    period_ms: int

    def __str__(self) -> str:
        """The rate as a settings record spells it."""
        for unit in ("d", "h", "m", "s", "ms"):
            number, rest = divmod(self.period_ms, UNIT_MS[unit])
            if number and not rest:
                break
        return f"{self.count}/{'' if number == 1 else number}{unit}"


def parse_rate(text: str) -> Rate | None:
    """Read `40/s`, `1/333ms`, …; `unlimited` gives `None`.

    Raises `ValueError` with a sentence that says what is wrong.
    """
    if text == UNLIMITED:
        return None
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"rate {text[:40]!r} is not COUNT/PERIOD (such as 40/s, 1/m, 1/333ms) or 'unlimited'"
        )
    count = int(match[1])
    period_ms = int(match[2] or 1) * UNIT_MS[match[3]]
    if count == 0:
        raise ValueError(f"rate {text!r} would stop the tenant for ever; pause it instead")
    if count > RATE_COUNT_MAX or not 0 < period_ms <= RATE_PERIOD_MS_MAX:
        raise ValueError(
            f"rate {text!r} is out of range: count up to {RATE_COUNT_MAX}, "
            f"period from 1 ms to {RATE_PERIOD_MS_MAX // UNIT_MS['d']} days"
        )
    return Rate(count, period_ms)
