"""The contract on a real broker: the behaviours that the driver is tested by, word for word."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.broker.installation import Installation, prepared
from tests.contract.behaviours import *  # noqa: F403  (the tests themselves)
from tests.contract.broker_world import BrokerWorld
from tests.contract.world import World


class Supply:
    """Installations of one test each; the next one starts while a test runs."""

    def __init__(self, kafka: str, folders: pytest.TempPathFactory) -> None:
        self._kafka = kafka
        self._folders = folders
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
        folder = self._folders.mktemp("contract")
        it = stack.enter_context(prepared(self._kafka, folder, partitions=2))
        it.process.start()
        return it, stack


@pytest.fixture(scope="module")
def supply(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supply]:
    """Where the tests of this module get their schedulers from."""
    found = Supply(kafka, tmp_path_factory)
    yield found
    found.close()


@pytest.fixture
def world(supply: Supply) -> Iterator[World]:
    """A scheduler on a real broker."""
    installation, stack = supply.take()
    with stack:
        yield BrokerWorld(installation)
