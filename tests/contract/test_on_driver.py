"""The contract on the driver."""

import pytest

from tests.contract.behaviours import *  # noqa: F403  (the tests themselves)
from tests.contract.driver_world import DriverWorld
from tests.contract.world import World

pytestmark = pytest.mark.unit


@pytest.fixture
def world() -> World:
    """A scheduler without a broker."""
    return DriverWorld()
