"""What a check of one promise found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

EXAMPLES_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise, what was looked at, and where it was seen broken."""

    promise: str
    checked: str
    broken: Sequence[str] = ()
    """A sentence for each case in which it did not hold."""

    @property
    def kept(self) -> bool:
        """Whether nothing was seen that breaks it."""
        return not self.broken

    @property
    def examples(self) -> Sequence[str]:
        """The first cases, and how many more there are."""
        more = len(self.broken) - EXAMPLES_MAX
        shown = list(self.broken[:EXAMPLES_MAX])
        return shown if more <= 0 else [*shown, f"and {more:,} more"]
