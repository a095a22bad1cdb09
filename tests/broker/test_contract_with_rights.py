"""The contract on a Kafka that asks: everybody has exactly the rights of the role, and no more."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from streamsched.kafka.embedded import EmbeddedKafka
from tests.broker.installation import Installation
from tests.broker.rightful import Rightful, prepared_with_rights
from tests.broker.supply import Supply
from tests.contract.behaviours import *  # noqa: F403  (the tests themselves)
from tests.contract.broker_world import BrokerWorld
from tests.contract.world import World


@pytest.fixture(scope="module")
def supply(secured: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supply]:
    """Where the tests of this module get their schedulers from."""
    rightful = Rightful(secured)

    def prepare(stack: ExitStack) -> Installation:
        folder = tmp_path_factory.mktemp("rights")
        it, _ = stack.enter_context(prepared_with_rights(rightful, folder, partitions=2))
        return it

    found = Supply(prepare)
    yield found
    found.close()


@pytest.fixture
def world(supply: Supply) -> Iterator[World]:
    """A scheduler on a real broker."""
    installation, stack = supply.take()
    with stack:
        yield BrokerWorld(installation)
