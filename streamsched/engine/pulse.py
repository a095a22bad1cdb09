"""Noticing that the process stood still, so that it does not act on what it knew before.

It may have been stopped by a signal, its machine paused, or every core taken from it. Settings
that were published and cancels that were acknowledged meanwhile are then unread, yet the timers
of the cycles are all over.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

BEAT_SECONDS: Final = 0.25

STALL_SECONDS_MIN: Final = 1.0
"""A gap this long is a stall: settings are to act within a second of their publication."""

log = structlog.get_logger()


class Pulse:
    """Adds up how long this process's event loop has stood still."""

    def __init__(
        self,
        monotonic: Callable[[], float],
        clock_ms: Callable[[], int],
        on_stall: Callable[[], None],
    ) -> None:
        """`on_stall` is called on the loop, before whoever asked is told of it.

        The wall clock tells of a machine that was suspended, for which the monotonic one stops.
        Where it was merely put forward, that is taken for a stall.
        """
        self._monotonic = monotonic
        self._clock_ms = clock_ms
        self._on_stall = on_stall
        self._last = monotonic()
        self._last_ms = clock_ms()
        self._stalled_seconds = 0.0

    async def run(self) -> None:
        """Beat as long as the process lives."""
        while True:
            self.beat()
            await asyncio.sleep(BEAT_SECONDS)

    def beat(self) -> float:
        """Seconds of all stalls so far, one that has ended this moment included.

        For whoever is about to act: that timer may be over before the one of `run`.
        """
        now, now_ms = self._monotonic(), self._clock_ms()
        stood_still_seconds = max(now - self._last, (now_ms - self._last_ms) / 1000)
        self._last, self._last_ms = now, now_ms
        if stood_still_seconds > STALL_SECONDS_MIN:
            self._stalled_seconds += stood_still_seconds
            log.warning(
                "this process stood still; nothing leaves before it has heard what it missed",
                seconds=round(stood_still_seconds, 1),
            )
            self._on_stall()
        return self._stalled_seconds
