"""Installations of one test each; the next one starts while a test runs."""

from collections.abc import Callable
from contextlib import ExitStack

from tests.broker.installation import Installation


class Supply:
    """Hands out schedulers that are ready."""

    def __init__(self, prepare: Callable[[ExitStack], Installation]) -> None:
        """`prepare` makes an installation that is not started, and has the stack end it."""
        self._prepare = prepare
        self._next: tuple[Installation, ExitStack] | None = None

    def take(self) -> tuple[Installation, ExitStack]:
        """An installation that is ready, and what ends it."""
        taken = self._next or self._start()
        self._next = self._start()
        taken[0].process.wait_ready()
        return taken

    def close(self) -> None:
        """End the one that nobody took."""
        if self._next is not None:
            self._next[1].close()

    def _start(self) -> tuple[Installation, ExitStack]:
        stack = ExitStack()
        it = self._prepare(stack)
        it.process.start()
        return it, stack
