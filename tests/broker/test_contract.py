"""The contract on a real broker: the behaviours that the driver is tested by, word for word."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.broker.installation import Installation, prepared
from tests.broker.supply import Supply
from tests.contract.behaviours import *  # noqa: F403  (the tests themselves)
from tests.contract.broker_world import BrokerWorld
from tests.contract.world import World


@pytest.fixture(scope="module")
def supply(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supply]:
    """Where the tests of this module get their schedulers from."""

    def prepare(stack: ExitStack) -> Installation:
        folder = tmp_path_factory.mktemp("contract")
        return stack.enter_context(prepared(kafka, folder, partitions=2))

    found = Supply(prepare)
    yield found
    found.close()


@pytest.fixture
def world(supply: Supply) -> Iterator[World]:
    """A scheduler on a real broker."""
    installation, stack = supply.take()
    with stack:
        yield BrokerWorld(installation)
