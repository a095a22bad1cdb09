"""Noticing that the process stood still."""

import pytest

from streamsched.core.names import TopicNames
from streamsched.core.settings_view import SettingsView
from streamsched.engine.pulse import Pulse
from streamsched.engine.settings_reader import SettingsReader
from streamsched.settings import Settings


class Clocks:
    """A monotonic clock and a wall clock."""

    monotonic_seconds = 100.0
    wall_ms = 1_800_000_000_000

    def __init__(self) -> None:
        """A pulse that counts what it notices."""
        self.noticed = 0
        self.pulse = Pulse(lambda: self.monotonic_seconds, lambda: self.wall_ms, self._notice)

    def _notice(self) -> None:
        self.noticed += 1

    def pass_by(self, monotonic_seconds: float, wall_seconds: float) -> float:
        """Let time go by without a beat; what the next beat says."""
        self.monotonic_seconds += monotonic_seconds
        self.wall_ms += round(wall_seconds * 1000)
        return self.pulse.beat()


@pytest.mark.parametrize(
    ("monotonic_seconds", "wall_seconds", "stalled_seconds"),
    [(3.0, 3.0, 3.0), (0.1, 3.0, 3.0), (3.0, -60.0, 3.0), (0.9, 0.9, 0.0), (0.1, -60.0, 0.0)],
    ids=["stopped", "suspended", "stopped, clock back", "slow", "clock back"],
)
def test_a_stall_shows_on_either_clock(
    monotonic_seconds: float, wall_seconds: float, stalled_seconds: float
) -> None:
    """Only the wall clock goes on while a machine is suspended; a step back says nothing."""
    clocks = Clocks()
    for total in (1, 2):
        found = clocks.pass_by(monotonic_seconds, wall_seconds)
        assert found == pytest.approx(total * stalled_seconds)
    assert clocks.noticed == (2 if stalled_seconds else 0)
    assert clocks.pass_by(0.2, 0.2) == found


def test_only_an_end_that_was_asked_for_since_the_doubt_completes_the_settings() -> None:
    """An older one may still be on its way to the loop."""
    view = SettingsView(TopicNames("pulse"))
    reader = SettingsReader(Settings(), view, lambda: None, lambda _error: None)
    reader._feed([], 0)
    assert view.complete
    reader.doubt()
    reader._feed([], 0)
    reader._feed([(0, b"acme", b"{}")], None)
    assert not view.complete
    reader._feed([], 1)
    assert view.complete
