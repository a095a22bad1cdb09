"""Fixtures of the tests that need a real Kafka."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from streamsched.kafka.embedded import EmbeddedKafka
from tests.broker.installation import Installation, installed


@pytest.fixture(scope="session")
def admin(kafka: str) -> AdminClient:
    """An admin client on the shared Kafka."""
    return AdminClient({"bootstrap.servers": kafka})


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
