"""Fixtures of the tests that need a real Kafka."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from streamsched.kafka.embedded import EmbeddedKafka


@pytest.fixture(scope="session")
def admin(kafka: str) -> AdminClient:
    """An admin client on the shared Kafka."""
    return AdminClient({"bootstrap.servers": kafka})


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    """A running Kafka of this test alone, for tests that stop or kill it."""
    with EmbeddedKafka(tmp_path / "kafka") as running:
        yield running
