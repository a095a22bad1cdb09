"""Fixtures of the tests on a container engine: a Kafka and schedulers in one network."""

import os
from collections.abc import Iterator

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
def names(app_id: str) -> TopicNames:
    """Topics of this test alone."""
    return TopicNames(app_id)


@pytest.fixture
def scheduler(kafka: str, network: Network, names: TopicNames) -> Iterator[SchedulerContainer]:
    """A scheduler's container on topics of its own; not started."""
    apply({"bootstrap.servers": kafka}, names)
    container = SchedulerContainer(SCHEDULER_IMAGE, INSIDE, names.app_id, network)
    yield container
    container.remove()
