"""Fixtures of the tests on a container engine: a Kafka and schedulers in one network."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import docker
import pytest
from testcontainers.core.network import Network

from streamsched.core.names import TopicNames
from streamsched.kafka.admin import apply
from tests.container.scheduler_container import SchedulerContainer
from tests.kafka_container import INSIDE, KafkaContainer, require_image
from tests.shared_broker import NoContainerError

SCHEDULER_IMAGE = os.environ.get("SCHEDULER_IMAGE", "streamsched:latest")


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """The container engine; where there is none, or no image of ours, the tests are skipped."""
    try:
        require_image(SCHEDULER_IMAGE)
    except NoContainerError as error:
        pytest.skip(f"{error} (`make test-containers` builds all of it)")
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(scope="session")
def network(engine: docker.DockerClient) -> Iterator[Network]:
    """A network of this run's containers."""
    with Network() as network:
        yield network


@pytest.fixture(scope="session")
def kafka(network: Network) -> Iterator[str]:
    """Bootstrap address, for this machine, of a Kafka in the network."""
    container = KafkaContainer().with_network(network).with_network_aliases("kafka")
    with container:
        yield container.bootstrap_servers


@pytest.fixture
def make_scheduler(kafka: str, network: Network) -> Iterator[Callable[[str], SchedulerContainer]]:
    """Makes a scheduler's container on the topics of an app id, which it makes; not started."""
    with ExitStack() as stack:

        def make(app_id: str) -> SchedulerContainer:
            apply({"bootstrap.servers": kafka}, TopicNames(app_id))
            container = SchedulerContainer(SCHEDULER_IMAGE, INSIDE, app_id, network)
            stack.callback(container.remove)
            return container

        yield make


@pytest.fixture
def scheduler(
    make_scheduler: Callable[[str], SchedulerContainer], app_id: str
) -> SchedulerContainer:
    """A scheduler's container on topics of its own; not started."""
    return make_scheduler(app_id)
