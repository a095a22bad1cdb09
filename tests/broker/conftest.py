"""Fixtures of the tests that need a real Kafka."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from streamsched.kafka.broker_security import ADMIN, MECHANISMS, NODE
from streamsched.kafka.embedded import EmbeddedKafka
from tests.broker.installation import Installation, installed
from tests.connecting import client_options, remember

PLAIN_LOGIN = {
    "sasl.mechanisms": "PLAIN",
    "sasl.username": "plain",
    "sasl.password": "a-password-that-stands-nowhere-else",
}
"""Of a user of the secured Kafka who may do everything."""


@pytest.fixture(scope="session")
def admin(kafka: str) -> AdminClient:
    """An admin client on the shared Kafka."""
    return AdminClient(client_options(kafka))


@pytest.fixture(scope="session")
def shared(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A running scheduler for all tests that only send records, each with tenants of its own."""
    with installed(kafka, tmp_path_factory.mktemp("shared"), life_seconds=3_600) as running:
        yield running


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    """A running Kafka of this test alone, for tests that stop or kill it."""
    with EmbeddedKafka(tmp_path / "kafka") as running:
        yield running


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A secured Kafka of one node for the tests of just that; each leaves it running."""
    user, password = PLAIN_LOGIN["sasl.username"], PLAIN_LOGIN["sasl.password"]
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"
    properties = {
        # So that one listener can show one certificate after the other.
        "ssl.allow.dn.changes": "true",
        "ssl.allow.san.changes": "true",
        "sasl.enabled.mechanisms": ",".join([*MECHANISMS, "PLAIN"]),
        "listener.name.clients.plain.sasl.jaas.config": (
            f'{login} required user_{user}="{password}";'
        ),
        "super.users": f"User:{ADMIN};User:{NODE};User:{user}",
    }
    folder = tmp_path_factory.mktemp("secured")
    with EmbeddedKafka(folder, secure=True, properties=properties) as kafka:
        remember(kafka.client_options)
        yield kafka
