"""Kafka in a container, from the image apache/kafka, for tests that run on one.

testcontainers' own module starts Confluent's image only. The image is KAFKA_IMAGE where that is
set, which is how one that was built here takes the place of the published one.
"""

import gc
import logging
import os
import warnings
from collections.abc import Mapping
from typing import Self

import docker
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from docker.errors import DockerException, ImageNotFound
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from streamsched.kafka.broker_config import DEVELOPER_PROPERTIES, replication_properties
from streamsched.kafka.broker_node import free_port
from streamsched.kafka.jars import KAFKA_VERSION
from tests.broker.cluster import await_condition
from tests.shared_broker import NoContainerError

IMAGE = os.environ.get("KAFKA_IMAGE", f"apache/kafka:{KAFKA_VERSION}")
CLUSTER_ID = "c3RyZWFtc2NoZWQtdGVzdA"
HOST_PORT = 9092
START_SECONDS_MAX = 180.0
LIFE_SECONDS_MAX = 7_200
INSIDE = "kafka:19092"
"""Where containers of the same network find it."""


class KafkaContainer(DockerContainer):
    """One broker and controller, for clients on this machine and in the container's network.

    It has the settings of the embedded Kafka, so that the same tests pass on both, and ends by
    itself when `LIFE_SECONDS_MAX` are over.
    """

    def __init__(self, image: str = IMAGE) -> None:
        """Does not start it. Raises `NoContainerError`."""
        require_image(image)
        # Its watchdog is a container of yet another image; `stop` and the bounded life do as well.
        testcontainers_config.ryuk_disabled = True
        super().__init__(image)
        # A client is sent to the address that the broker tells, so the port is chosen before.
        port = free_port()
        self.bootstrap_servers = f"{self.get_docker_client().host()}:{port}"
        self.with_bind_ports(HOST_PORT, port)
        self.with_envs(CLUSTER_ID=CLUSTER_ID, **environment(self._properties()))
        run = ["/etc/kafka/docker/run"]
        self.with_command(["timeout", "-s", "KILL", str(LIFE_SECONDS_MAX), *run])

    def start(self) -> Self:
        """Start it and wait until it serves."""
        super().start()
        # librdkafka prints each refused connection unless it has a logger.
        silent = logging.getLogger(__name__)
        silent.setLevel(logging.CRITICAL + 1)
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers}, logger=silent)
        # Whoever starts it stops it as well; a second stop would hide why the start failed.
        await_condition("Kafka serves", lambda: _serves(admin), START_SECONDS_MAX, self.log)
        return self

    @property
    def client_options(self) -> dict[str, str]:
        """What a client on this machine needs to connect."""
        return {"bootstrap.servers": self.bootstrap_servers}

    def log(self) -> str:
        """The end of what it wrote."""
        return b"".join(self.get_logs()).decode(errors="replace")[-6_000:]

    def _properties(self) -> dict[str, str]:
        inside = INSIDE.partition(":")[2]
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": "1@localhost:9093",
            "controller.listener.names": "CONTROLLER",
            # A broker speaks to itself too, to end transactions, and neither the address for this
            # machine nor the name in a network, which it may not be in, leads it there.
            "listeners": (
                f"SELF://:9094,INSIDE://:{inside},HOST://:{HOST_PORT},CONTROLLER://:9093"
            ),
            "advertised.listeners": (
                f"SELF://localhost:9094,INSIDE://{INSIDE},HOST://{self.bootstrap_servers}"
            ),
            "inter.broker.listener.name": "SELF",
            "listener.security.protocol.map": (
                "SELF:PLAINTEXT,INSIDE:PLAINTEXT,HOST:PLAINTEXT,CONTROLLER:PLAINTEXT"
            ),
            **DEVELOPER_PROPERTIES,
            **replication_properties(1),
        }


def environment(properties: Mapping[str, str]) -> dict[str, str]:
    """Settings of a broker as the variables that the image makes them of."""
    spelt = str.maketrans({".": "_", "_": "__", "-": "___"})
    return {f"KAFKA_{name.translate(spelt).upper()}": text for name, text in properties.items()}


def require_image(image: str) -> None:
    """Pull an image that is not here. Raises `NoContainerError`."""
    with warnings.catch_warnings():
        # A client that finds no engine leaves its socket to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        fault = _fault_of_engine()
        gc.collect()
    if fault:
        raise NoContainerError(
            f"no container engine answers ({fault}): start one, or take another --kafka"
        )
    engine = docker.from_env()
    try:
        engine.images.get(image)
    except ImageNotFound:
        _pull(engine, image)
    finally:
        engine.close()


def _fault_of_engine() -> str:
    try:
        docker.from_env().close()
    except DockerException as error:
        return str(error)
    return ""


def _pull(engine: docker.DockerClient, image: str) -> None:
    try:
        engine.images.pull(image)
    except DockerException as error:
        raise NoContainerError(
            f"the image {image} is not here and cannot be pulled ({error}): name one that is in "
            "KAFKA_IMAGE"
        ) from error


def _serves(admin: AdminClient) -> bool:
    try:
        return bool(admin.list_topics(timeout=1).brokers)
    except KafkaException:
        return False
